"""人的 id 是一段字（UUID）：令牌、路径、REST、两种边缘的帧、回执、在线、会议，外面只看得到它。"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from meeting_push import MeetingPush, Principal, PushClient, RestClient, Sender, load_settings
from meeting_push.person_id import NOBODY, PersonId
from meeting_push.redis.redis_service import RedisService
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.people import Device
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET

pytestmark = pytest.mark.timeout(120)
ANN, BEN = str(uuid4()), "ben@example.org"
CAT: Final = str(2**53 + 1)


def token_of(person: PersonId, **claims: object) -> str:
    given = {"sub": person, "name": "N", "iat": time.time(), "exp": time.time() + 600, **claims}
    return jwt.encode(given, TEST_JWT_SECRET, "HS256")


class World:
    """内嵌着的一个节点，应用自己签令牌。"""

    def __init__(self, push: MeetingPush, address: str) -> None:
        self.push, self.address = push, address
        self.url = f"http://{address}"

    def api(self, person: PersonId, **claims: object) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token_of(person, **claims)}"}
        return httpx.AsyncClient(
            base_url=f"{self.url}/api/v1", headers=headers, trust_env=False, timeout=30
        )

    async def post(self, person: PersonId, path: str, body: object, **claims: object) -> Any:
        async with self.api(person, **claims) as api:
            return await api.post(path, json=body)

    async def get(self, person: PersonId, path: str, **claims: object) -> Any:
        async with self.api(person, **claims) as api:
            answer = await api.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def send(self, sender: PersonId, *to: PersonId, **fields: object) -> str:
        body = {"recipient_ids": to, "title": "t", "content": "c", **fields}
        answer = await self.post(sender, "/messages", body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["message_id"])

    @contextlib.asynccontextmanager
    async def device(self, person: PersonId, query: str = "") -> AsyncIterator[Device]:
        url = f"ws://{self.address}/ws/user/{quote(str(person), safe='')}/messages{query}"
        headers = {"authorization": f"Bearer {token_of(person)}"}
        socket = await connect(url, additional_headers=headers, proxy=None)
        one = Device(socket, json.loads(await asyncio.wait_for(socket.recv(), 10)))
        assert one.welcome["type"] == "welcome", one.welcome
        try:
            yield one
        finally:
            await one.close()


Embedded = Callable[..., contextlib.AbstractAsyncContextManager[World]]


@pytest.fixture
def embedded(tmp_path: Path, redis7_server: RedisServer, key_prefix: str) -> Embedded:
    @contextlib.asynccontextmanager
    async def run(
        *, native: bool = False, directory: Any = None, verifier: Any = None, **changes: object
    ) -> AsyncIterator[World]:
        given = {
            "redis_url": redis7_server.url,
            "key_prefix": key_prefix,
            "data_dir": tmp_path,
            "jwt_secret": TEST_JWT_SECRET,
            **changes,
        }
        push = MeetingPush(load_settings(**given), directory=directory, verifier=verifier)
        async with hosted(push, native=native) as address:
            yield World(push, address)

    return run


@pytest.fixture(params=["native", "asgi"])
async def world(
    request: pytest.FixtureRequest, embedded: Embedded, database_url: str
) -> AsyncIterator[World]:
    async with embedded(native=request.param == "native", database_url=database_url) as one:
        yield one


async def eventually_empty(world: World) -> None:
    """确认写完了：信箱空了。"""

    async def empty() -> bool:
        path = f"/users/{quote(BEN)}/offline-messages/count"
        return bool((await world.get(BEN, path))["count"] == 0)

    await eventually(empty, 20)


async def other(device: Device, kind: str) -> dict[str, Any]:
    """等到一帧 ``kind``。"""
    async with asyncio.timeout(10):
        while True:
            for frame in device.others:
                if frame["type"] == kind:
                    device.others.remove(frame)
                    return frame
            await device.round_trip()


async def test_a_message_its_receipt_and_its_delivery_name_people_by_their_strings(
    world: World,
) -> None:
    async with world.device(ANN) as sender, world.device(BEN) as phone:
        assert (sender.welcome["user_id"], phone.welcome["user_id"]) == (ANN, BEN)
        message_id = await world.send(ANN, BEN, CAT, 7, receipt=True)
        message = await phone.next_message()
        assert (message["message_id"], message["sender"]) == (message_id, {"id": ANN, "name": "N"})
        await phone.ack(message_id)
        receipt = await other(sender, "receipt")
        assert (receipt["recipient_id"], receipt["status"]) == (BEN, "delivered")
    report = await world.get(ANN, f"/messages/{message_id}/delivery")
    assert {r["user_id"]: r["status"] for r in report["recipients"]} == {
        BEN: "delivered",
        CAT: "pending",
        7: "pending",
    }
    inbox = await world.get(BEN, "/messages")
    assert inbox["items"][0]["sender"]["id"] == ANN
    statistics = await world.get(BEN, f"/users/{quote(BEN)}/delivery-statistics")
    assert (statistics["user_id"], statistics["delivered"]) == (BEN, 1)


async def test_what_waited_in_the_mailbox_comes_and_a_resume_goes_on(world: World) -> None:
    first = await world.send(ANN, BEN)
    offline = await world.get(BEN, f"/users/{quote(BEN)}/offline-messages")
    assert [(m["message_id"], m["sender_id"]) for m in offline["items"]] == [(first, ANN)]
    async with world.device(BEN, "?device_id=d") as phone:
        message = await phone.next_message()
        assert (message["message_id"], message["sender"]["id"]) == (first, ANN)
        await phone.ack(first)
        await eventually_empty(world)
        epoch, seq = phone.welcome["epoch"], message["seq"]
    second = await world.send(ANN, BEN)
    async with world.device(BEN, f"?device_id=d&epoch={epoch}&last_seq={seq}") as phone:
        assert phone.welcome["resumed"] is True
        assert (await phone.next_message())["message_id"] == second


async def test_presence_is_watched_and_listed_by_strings(world: World) -> None:
    async with world.device(ANN) as watcher:
        await watcher.socket.send(json.dumps({"type": "watch", "user_ids": [BEN, "7", 7]}))
        told = [await other(watcher, "presence") for _ in range(2)]
        assert {(one["user_id"], one["online"]) for one in told} == {(BEN, False), (7, False)}
        async with world.device(BEN) as phone:
            assert (await other(watcher, "presence"))["user_id"] == BEN
            seen = await world.get(ANN, f"/presence/users/{quote(BEN)}")
            assert (seen["user_id"], seen["online"], seen["connection_count"]) == (BEN, True, 1)
            online = await world.get(9, "/presence/online", role="admin")
            assert {one["user_id"] for one in online["items"]} == {ANN, BEN}
            path = f"/presence/users/{quote(BEN)}/connections/{phone.welcome['connection_id']}"
            async with world.api(BEN) as api:
                assert (await api.delete(path)).status_code == 204
            await asyncio.wait_for(phone.socket.wait_closed(), 10)
            assert phone.socket.close_code == 4503
        for given in ([BEN, "7"], ["a b"], ["x" * 65], [0], [True], [5.5]):
            await watcher.socket.send(
                json.dumps({"type": "unwatch", "user_ids": given, "request_id": "r"})
            )
        assert (await other(watcher, "watch_result"))["watching"] == 0
        codes = [(await other(watcher, "error"))["code"] for _ in range(5)]
        assert set(codes) == {"invalid_frame"}


async def test_five_and_its_digits_are_one_person_and_case_tells_people_apart(
    world: World,
) -> None:
    message_id = await world.send("5", "5", 5, "Ann", "ANN", "ann")
    report = await world.get(5, f"/messages/{message_id}/delivery")
    assert {r["user_id"] for r in report["recipients"]} == {5, "Ann", "ANN", "ann"}
    async with world.device("Ann") as one, world.device("ANN") as another:
        assert (await one.next_message())["sender"]["id"] == 5
        assert (await another.next_message())["sender"]["id"] == 5


@pytest.mark.parametrize(
    "bad",
    ["", "a b", "a/b", "ä", "x" * 65, "a\n", 0, -1, 2**53, 5.5, 5.0, True, None, ["a"]],
    ids=repr,
)
async def test_what_is_no_id_is_422(embedded: Embedded, bad: object) -> None:
    async with embedded() as world:
        body = {"recipient_ids": [5, bad], "title": "t", "content": "c"}
        answer = await world.post(ANN, "/messages", body)
        meeting = await world.post(ANN, "/meetings", {"title": "t", "participant_ids": [bad]})
    if bad == 5.0:  # 5.0 写的就是 5（C6）
        assert (answer.status_code, meeting.status_code) == (202, 201)
    else:
        assert (answer.status_code, meeting.status_code) == (422, 422), answer.text


@pytest.mark.parametrize("subject", ["a b", "", "x" * 65, 0, -5, 2**53, True, 5.5, None, ["a"]])
async def test_a_token_whose_subject_is_no_id_is_refused(
    embedded: Embedded, subject: object
) -> None:
    async with embedded() as world, world.api(subject) as api:  # type: ignore[arg-type]
        assert (await api.get("/messages")).status_code == 401


async def test_a_token_opens_only_its_own_path(world: World) -> None:
    for path in (BEN, "5", "a%20b"):
        url = f"ws://{world.address}/ws/user/{path}/messages?token={token_of(ANN)}"
        if path == "a%20b":
            with pytest.raises(InvalidStatus):  # 404，升级之前
                await connect(url, proxy=None)
            continue
        async with connect(url, proxy=None) as socket:
            await socket.wait_closed()
            assert socket.close_code == 4501


async def test_meetings_name_people_by_their_strings(world: World) -> None:
    made = (await world.post(ANN, "/meetings", {"title": "t", "participant_ids": [BEN, 7]})).json()
    assert made["organizer_id"] == ANN
    assert {p["user_id"] for p in made["participants"]} == {ANN, BEN, 7}
    address = f"ws://{world.address}/ws/meeting/{made['meeting_id']}?token="
    async with connect(address + token_of(ANN), proxy=None) as ann:
        welcome = json.loads(await ann.recv())
        assert (welcome["user_id"], {p["user_id"] for p in welcome["participants"]}) == (
            ANN,
            {ANN, BEN, 7},
        )
        await ann.recv()  # history
        async with connect(address + token_of(BEN), proxy=None) as ben:
            join = json.loads(await asyncio.wait_for(ann.recv(), 10))
            assert (join["type"], join["user_id"]) == ("join", BEN)
            await ben.recv()
            await ben.recv()
            said = {"type": "segment", "text": "hi", "start_ms": 0, "end_ms": 1}
            await ann.send(json.dumps(said))
            heard = json.loads(await asyncio.wait_for(ben.recv(), 10))
            assert (heard["type"], heard["sender_id"]) == ("segment", ANN)
    transcript = await world.get(BEN, f"/meetings/{made['meeting_id']}/transcript")
    assert [one["sender_id"] for one in transcript["items"]] == [ANN]
    async with world.api(BEN) as api:
        path = f"/meetings/{made['meeting_id']}/participants/{quote(BEN)}"
        assert (await api.delete(path)).status_code == 204


async def test_a_foreign_publisher_asks_for_the_number(
    world: World, redis7_server: RedisServer, key_prefix: str
) -> None:
    async with world.device(BEN) as phone:
        told = await world.get(7, f"/people/{quote(BEN)}")
        assert told["user_id"] == BEN
        assert told["inner_id"] > NOBODY
        assert told["channel"] == f"{key_prefix}user:{{{told['inner_id']}}}:messages"
        assert (await world.get(7, "/people/5"))["inner_id"] == 5
        async with world.api(7) as api:
            assert (await api.get("/people/nobody-yet")).status_code == 404
            assert (await api.get("/people/a%20b")).status_code == 422
        body = {"type": "new_message", "message_id": "n-1", "title": "t", "content": "c"}
        sender = {"sender": {"id": ANN, "name": "Ann"}}
        redis: RedisService = world.push._rooms.bus.redis
        await redis.publish(told["channel"], json.dumps(body | sender).encode())
        assert (await phone.next_message())["sender"]["id"] == ANN


async def test_a_user_brings_a_thousand_new_people_a_day(
    embedded: Embedded, database_url: str
) -> None:
    async with embedded(people_per_user_per_day=3, database_url=database_url) as world:
        body = {"recipient_ids": ["a", "b", "c"], "title": "t", "content": "c"}
        assert (await world.post(ANN, "/messages", body)).status_code == 202
        assert (await world.post(ANN, "/messages", body)).status_code == 202
        refused = await world.post(ANN, "/messages", body | {"recipient_ids": ["a", "d"]})
        assert refused.status_code == 429
        assert refused.json()["error"]["details"]["limit"] == "people"
        assert "retry-after" in refused.headers
        assert (await world.post(BEN, "/messages", body | {"recipient_ids": ["d"]})).is_success
        many = body | {"recipient_ids": [f"u{n}" for n in range(10_000)]}
        assert (await world.post(9, "/messages", many, role="admin")).status_code == 202
        accepted = await world.push.messages.send_message(Sender("x", "X"), "y", "t", "c")
        assert accepted.recipient_count == 1


class Customers:
    """应用的名册：只认得 UUID 与一个整数；记下问过的。"""

    def __init__(self, *known: PersonId) -> None:
        self.known = set(known)
        self.asked: list[PersonId] = []

    async def existing_ids(self, user_ids: Sequence[PersonId]) -> set[PersonId]:
        self.asked += user_ids
        return self.known & set(user_ids)


async def test_a_directory_speaks_the_applications_ids(embedded: Embedded) -> None:
    directory = Customers(BEN, 7)
    async with embedded(directory=directory) as world:
        await world.send(ANN, BEN, 7)
        body = {"recipient_ids": [BEN, 7, "nobody", 8], "title": "t", "content": "c"}
        answer = await world.post(ANN, "/messages", body)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"] == {"user_ids": ["nobody", 8]}
    assert all(one in (BEN, 7, 8, "nobody") for one in directory.asked)


async def test_an_applications_verifier_names_people_as_it_likes(embedded: Embedded) -> None:
    class Verifier:
        async def verify_access_token(self, token: str) -> Principal:
            return Principal.of(token, issued_at=0, expires_at=4_000_000_000_000)

    async with embedded(verifier=Verifier()) as world:
        url = f"ws://{world.address}/ws/user/{BEN}/messages"
        headers = {"authorization": f"Bearer {BEN}"}
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            assert json.loads(await socket.recv())["user_id"] == BEN


async def test_numbers_are_strings_when_the_application_says_so(embedded: Embedded) -> None:
    async with embedded(user_ids="string") as world, world.device("5") as phone:
        assert phone.welcome["user_id"] == "5"
        message_id = await world.send(6, 5, "5")
        assert (await phone.next_message())["sender"]["id"] == "6"
        report = await world.get("6", f"/messages/{message_id}/delivery")
        assert [r["user_id"] for r in report["recipients"]] == ["5"]
        assert (await world.get(5, "/people/5"))["inner_id"] > NOBODY


async def test_the_sdk_takes_strings(world: World) -> None:
    async with PushClient(world.url, token_of(BEN)) as client:
        await client.wait_connected()
        await client.watch([ANN, 7])
        sent = await RestClient(world.url, token_of(ANN)).send([BEN], "t", "c")
        async for message in client:
            assert (message.message_id, message.sender.id) == (sent.message_id, ANN)
            message.ack()
            break
    report = await RestClient(world.url, token_of(ANN)).delivery(sent.message_id)
    assert [state.user_id for state in report.recipients] == [BEN]


async def test_revoking_somebody_never_seen_holds(embedded: Embedded) -> None:
    async with embedded(jwt_leeway_s=0) as world:
        before = time.time() - 5
        async with world.api(9, role="admin") as api:
            assert (await api.post(f"/users/{ANN}/revoke")).status_code == 204
        async with world.api(ANN, iat=before) as api:
            answer = await api.get("/messages")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked")


async def test_who_is_known_connects_without_sql_and_who_is_not_comes_back_later(
    embedded: Embedded, tmp_path: Path
) -> None:
    async with embedded() as world:
        async with world.device(ANN):
            pass
        for name in os.listdir(tmp_path):
            if ".db" in name:
                os.unlink(tmp_path / name)
        async with world.device(ANN) as again:
            assert again.welcome["user_id"] == ANN
        url = f"ws://{world.address}/ws/user/newcomer/messages?token={token_of('newcomer')}"
        async with connect(url, proxy=None) as socket:
            await asyncio.wait_for(socket.wait_closed(), 20)
            assert socket.close_code == 4007
