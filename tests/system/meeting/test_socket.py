"""会议 WebSocket，从外面，两个节点：谁进得来，看得到什么，听得到什么。"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.house import House
from tests.support.meetings import attend, end, hold, knock, live, meeting_url, recorder, token
from tests.support.people import Frame, Person


async def test_welcome_says_what_the_client_needs(house: House, alice: Person, bob: Person) -> None:
    meeting_id = await hold(house.near, alice, bob, title="评审")
    async with attend(house.far, bob, meeting_id) as joined:
        welcome = joined.welcome
        assert (welcome["meeting_id"], welcome["title"], welcome["seq"]) == (meeting_id, "评审", 0)
        assert welcome["participants"] == [
            {"user_id": alice.user_id, "name": "alice", "online": False},
            {"user_id": bob.user_id, "name": "bob", "online": True},
        ]
        assert welcome["heartbeat_interval_s"] == 30
        assert welcome["heartbeat_timeout_s"] == 60
        assert await joined.read() == {"type": "history", "segments": [], "complete": True}


async def test_a_final_segment_reaches_every_node_with_its_seq(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a, live(house.far, bob, meeting_id) as b:
        await a.say("你好", 1_000)
        [at_a], [at_b] = await a.segments(1), await b.segments(1)
    assert at_a == at_b
    timestamp = at_b.pop("timestamp")
    assert timestamp > 1_600_000_000_000
    assert at_b == {
        "type": "segment",
        "seq": 1,
        "interim": False,
        "speaker": "alice",
        "text": "你好",
        "start_ms": 1_000,
        "end_ms": 1_100,
        "sender_id": alice.user_id,
    }


@pytest.mark.parametrize("interim", [False, True])
async def test_a17_a_participant_speaks_in_his_own_name_only(
    house: House, alice: Person, bob: Person, interim: bool
) -> None:
    """A17: 0.1 let anybody put words into anybody's mouth; a recogniser may name speakers."""
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a, live(house.far, bob, meeting_id) as b:
        await a.say("我", speaker="bob", interim=interim)
        heard = await b.read_type("segment")
    assert (heard["speaker"], heard["sender_id"]) == ("alice", alice.user_id)


async def test_an_interim_segment_is_heard_and_not_stored(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a, live(house.far, bob, meeting_id) as b:
        await a.say("你", interim=True)
        heard = await b.read_type("segment")
        assert (heard["interim"], heard["seq"], heard["text"]) == (True, None, "你")
    async with attend(house.far, bob, meeting_id) as again:
        assert again.welcome["seq"] == 0
        assert await again.history() == []


async def test_the_recorder_needs_no_invitation(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with (
        live(house.far, alice, meeting_id) as a,
        live(house.near, recorder(), meeting_id) as machine,
    ):
        await machine.say("听写", speaker="说话人 1")
        [segment] = await a.segments(1)
        assert (segment["speaker"], segment["sender_id"]) == ("说话人 1", 900_001)


async def test_a_stranger_is_4501(house: House, alice: Person, carol: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with knock(house.near, carol, meeting_id) as stranger:
        assert await stranger.closed() == 4501


async def test_an_administrator_is_no_participant(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    admin = Person(7, "admin", token(800_000, role="admin"))
    async with knock(house.near, admin, meeting_id) as stranger:
        assert await stranger.closed() == 4501


async def test_an_unknown_meeting_is_4501(house: House, alice: Person) -> None:
    async with knock(house.near, alice, "0" * 26) as nowhere:
        assert await nowhere.closed() == 4501


@pytest.mark.parametrize("meeting_id", ["1", "0" * 25, "0" * 27, "a" * 26, "%20" * 26])
async def test_a_malformed_meeting_id_is_404(house: House, alice: Person, meeting_id: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with knock(house.near, alice, meeting_id):
            pass
    assert refused.value.response.status_code == 404


async def test_a_foreign_origin_is_403(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    with pytest.raises(InvalidStatus) as refused:
        async with knock(house.near, alice, meeting_id, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("way", ["header", "subprotocol", "query"])
async def test_the_token_ways(house: House, alice: Person, way: str) -> None:
    meeting_id = await hold(house.near, alice)
    options: dict[str, Any] = {}
    if way == "header":
        options = {"subprotocols": None, "additional_headers": alice.headers}
    elif way == "query":
        options = {"subprotocols": None, "query": {"token": alice.token}}
    async with attend(house.near, alice, meeting_id, **options) as joined:
        expected = "meeting-push.v1" if way == "subprotocol" else None
        assert joined.socket.subprotocol == expected


@pytest.mark.parametrize("bearer", ["nonsense", ""])
async def test_a_bad_token_is_4500(house: House, alice: Person, bearer: str) -> None:
    assert await code_for(house, alice, bearer) == 4500


async def test_c5_a_token_that_is_seconds_too_early_is_4004(house: House, alice: Person) -> None:
    early = token(alice.user_id, iat=time.time() + 30)
    assert await code_for(house, alice, early) == 4004


async def code_for(house: House, alice: Person, bearer: str) -> int | None:
    url = meeting_url(house.near, await hold(house.near, alice), token=bearer)
    async with connect(url, proxy=None) as socket:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
    return socket.close_code


async def test_no_token_appears_in_the_log(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    options = {"subprotocols": None, "query": {"token": alice.token}}
    async with attend(house.near, alice, meeting_id, **options):
        pass
    assert alice.token not in house.near.output


async def test_join_and_leave_are_told_on_every_node(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a:
        async with live(house.far, bob, meeting_id):
            join = await a.read_type("join")
        leave = await a.read_type("leave")
    assert (join["user_id"], join["name"], join["online"]) == (bob.user_id, "bob", True)
    assert (leave["user_id"], leave["name"], leave["online"]) == (bob.user_id, "bob", False)


async def test_a_second_device_is_no_second_join(house: House, alice: Person, bob: Person) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a:
        async with live(house.far, bob, meeting_id):
            await a.read_type("join")
            async with live(house.near, bob, meeting_id) as second:
                await second.say("二")
            await second.closed()
            [_] = await a.segments(1)  # 其间若有第二个 join，就会先读到
        assert (await a.read())["type"] == "leave"


async def test_reconnecting_within_the_grace_is_not_seen(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a:
        async with live(house.far, bob, meeting_id):
            await a.read_type("join")
        async with live(house.near, bob, meeting_id) as back:
            await asyncio.sleep(0.5)  # 越过宽限：时间本身就是被测的东西
            await back.say("回来了")
            assert (await a.read())["type"] == "segment"


async def test_history_comes_on_joining(house: House, alice: Person, bob: Person) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a:
        for number in range(3):
            await a.say(f"第{number}句", number * 100)
        await a.segments(3)
    async with attend(house.far, bob, meeting_id) as b:
        assert b.welcome["seq"] == 3
        segments = await b.history()
    assert [(s["seq"], s["text"]) for s in segments] == [(1, "第0句"), (2, "第1句"), (3, "第2句")]
    assert segments[0]["type"] == "segment"


async def test_last_seq_brings_only_what_is_new(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        for number in range(5):
            await a.say(f"{number}")
        await a.segments(5)
    async with attend(house.far, alice, meeting_id, query={"last_seq": 3}) as again:
        assert [s["seq"] for s in await again.history()] == [4, 5]
        await again.say("接着")
        assert (await again.segments(1))[0]["seq"] == 6


@pytest.mark.parametrize("last_seq", ["99", "-1", "x", "", "1e3", "9" * 40])
async def test_an_impossible_last_seq_brings_everything(
    house: House, alice: Person, last_seq: str
) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        await a.say("一")
        await a.segments(1)
    async with attend(house.near, alice, meeting_id, query={"last_seq": last_seq}) as again:
        assert [s["seq"] for s in await again.history()] == [1]


async def test_a_long_meeting_comes_in_batches(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        for start in range(0, 450, 50):
            for number in range(start, start + 50):
                await a.say(f"{number}")
            await a.segments(50)
    async with attend(house.far, alice, meeting_id) as again:
        batches: list[Frame] = []
        while not batches or not batches[-1]["complete"]:
            batches.append(await again.read_type("history"))
    assert [s["seq"] for b in batches for s in b["segments"]] == list(range(1, 451))
    assert max(len(b["segments"]) for b in batches) <= 50


async def test_concurrent_writers_on_two_nodes_leave_no_hole(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    each = 60
    async with (
        live(house.near, alice, meeting_id) as a,
        live(house.far, bob, meeting_id) as b,
        live(house.far, recorder(), meeting_id) as listener,
    ):

        async def speak(who: Any, label: str) -> None:
            for number in range(each):
                await who.say(f"{label}{number}")

        async def watch(who: Any) -> list[Any]:
            return [(s["seq"], s["text"]) for s in await who.segments(2 * each)]

        *_, at_a, at_b, at_listener = await asyncio.gather(
            speak(a, "a"), speak(b, "b"), watch(a), watch(b), watch(listener)
        )
    assert [seq for seq, _ in at_a] == list(range(1, 2 * each + 1))
    assert at_a == at_b == at_listener
    for label in "ab":  # 同一条连接说的，次序不变
        said = [text for _, text in at_a if text.startswith(label)]
        assert said == [f"{label}{number}" for number in range(each)]


async def test_joining_in_the_middle_of_talk_misses_nothing(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    total = 120

    async def join_and_follow() -> list[int]:
        async with attend(house.far, bob, meeting_id) as b:
            seqs = [s["seq"] for s in await b.history()]
            return seqs + [s["seq"] for s in await b.segments(total - len(seqs))]

    async with live(house.near, alice, meeting_id) as a:
        following = []
        for number in range(total):
            await a.say(f"{number}")
            await a.segments(1)
            if number % 25 == 0:
                following.append(asyncio.create_task(join_and_follow()))
        for seqs in await asyncio.gather(*following):
            assert seqs == list(range(1, total + 1))


async def test_request_id_gets_the_seq(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        await a.say("一", request_id="r1")
        assert await a.read_type("segment_result") == {
            "type": "segment_result",
            "seq": 1,
            "request_id": "r1",
        }
        await a.say("临时", interim=True, request_id=2)
        result = await a.read_type("segment_result")
        assert (result["seq"], result["request_id"]) == (None, 2)


async def test_heartbeat_is_answered(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        answer = await a.ask("heartbeat_ack", type="heartbeat", timestamp=5, request_id="h")
        assert (answer["timestamp"], answer["request_id"], answer["seq"]) == (5, "h", 0)


async def test_the_token_can_be_changed_in_band(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        fresh = token(alice.user_id, name="alice")
        answer = await a.ask("token_refreshed", type="refresh_token", token=fresh)
        assert answer["token_expires_at"] == 4_000_000_000_000


async def test_another_users_token_in_band_is_4501(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        await a.send(type="refresh_token", token=bob.token)
        assert await a.closed() == 4501


GOOD = {"type": "segment", "text": "t", "start_ms": 0, "end_ms": 1}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "segment"}, "invalid_frame"),
        ({**GOOD, "text": 5}, "invalid_frame"),
        ({**GOOD, "text": ""}, "invalid_frame"),
        ({**GOOD, "text": "  "}, "invalid_frame"),
        ({**GOOD, "text": "nul\x00"}, "invalid_frame"),
        ({**GOOD, "text": "x" * 4_001}, "text_too_long"),
        ({**GOOD, "speaker": "s" * 129}, "invalid_frame"),
        ({**GOOD, "speaker": "\x00"}, "invalid_frame"),
        ({**GOOD, "start_ms": -1}, "invalid_frame"),
        ({**GOOD, "start_ms": 1.5}, "invalid_frame"),
        ({**GOOD, "end_ms": 2**60}, "invalid_frame"),
        ({**GOOD, "start_ms": 2}, "invalid_frame"),
        ({**GOOD, "interim": "yes"}, "invalid_frame"),
        ({"type": "ack", "message_ids": []}, "unknown_type"),
        ({"type": "heartbeat"}, "invalid_frame"),
        ({"type": "heartbeat", "timestamp": 1, "connection_id": "other"}, "wrong_connection"),
        ([], "invalid_frame"),
        ({**GOOD, "text": "字" * 3_000, "pad": "x" * 10_000}, "frame_too_large"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_bad_frame_is_an_error_and_the_socket_stays(
    house: House, alice: Person, frame: Any, code: str
) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        if isinstance(frame, dict):
            frame = {**frame, "request_id": "bad"}
        await a.socket.send(json.dumps(frame, ensure_ascii=False))
        error = await a.read()
        assert (error["type"], error["code"], error["temporary"]) == ("error", code, False)
        await a.say("还在")
        assert (await a.segments(1))[0]["text"] == "还在"


@pytest.mark.parametrize("raw", [b"\x00\x01", "{", '{"type":"segment","text":"\\ud800"}'])
async def test_binary_and_broken_json_are_errors(
    house: House, alice: Person, raw: bytes | str
) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        await a.socket.send(raw)
        expected = "binary_not_supported" if isinstance(raw, bytes) else "invalid_json"
        assert (await a.read())["code"] == expected


async def test_twenty_bad_frames_are_4504(house: House, alice: Person) -> None:
    meeting_id = await hold(house.near, alice)
    async with live(house.near, alice, meeting_id) as a:
        for _ in range(20):
            await a.socket.send("{")
        assert await a.closed() == 4504


async def test_the_end_is_told_and_closes_1000_on_every_node(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a, live(house.far, bob, meeting_id) as b:
        await a.say("散会")
        await b.segments(1)
        ended = await end(house.near, alice, meeting_id)
        for each in (a, b):
            farewell = await each.read_type("ended")
            assert farewell == {"type": "ended", "seq": 1, "ended_at": ended["ended_at"]}
            assert await each.closed() == 1000


async def test_joining_an_ended_meeting_gives_the_transcript_and_closes(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a:
        await a.say("一")
        await a.segments(1)
    await end(house.near, alice, meeting_id)
    async with attend(house.far, bob, meeting_id) as late:
        assert late.welcome["ended_at"] is not None
        assert [s["seq"] for s in await late.history()] == [1]
        assert (await late.read())["type"] == "ended"
        assert await late.closed() == 1000
