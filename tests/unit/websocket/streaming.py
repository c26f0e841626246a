"""没有 WebSocket 时（SSE）的全部行为：两种驱动、每扇门都一样。"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from meeting_push.errors import TokenExpiredError
from meeting_push.mailbox_model import ResumePoint
from meeting_push.model import Principal
from meeting_push.protocol.codes import CloseCode
from meeting_push.websocket.handshake import UNREADABLE_POSITION
from tests.support.edge_world import World
from tests.support.event_streams import EventStream
from tests.support.eventually import eventually
from tests.support.stand_ins import EPOCH

from .harness import EdgeHarness
from .slowness import QUICK_SWEEP, stuff

LISTED = "https://app.example"


@contextlib.asynccontextmanager
async def live(
    world: World, user_id: int = 1, query: str = "", **options: str
) -> AsyncIterator[EventStream]:
    async with world.stream(user_id, query, **options) as stream:
        assert (await stream.frame())["type"] == "welcome"
        yield stream


async def ask(world: World, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        url = f"http://127.0.0.1:{world.port}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, url, headers=named)


def path_of(user_id: int | str, query: str = "") -> str:
    return f"/sse/user/{user_id}/messages{query}"


@contextlib.asynccontextmanager
async def unread(world: World, user_id: int) -> AsyncIterator[asyncio.StreamReader]:
    """开始了的一条流，此后不再读。"""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=4096)
    request = f"GET {path_of(user_id)} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer "
    writer.write(f"{request}{world.token(user_id)}\r\n\r\n".encode())
    try:
        await reader.readuntil(b"welcome")
        yield reader
    finally:
        writer.transport.abort()


class OpeningBehaviour(EdgeHarness):
    async def test_welcome_is_the_first_event_and_the_position_its_id(self) -> None:
        async with self.world() as world:
            for number in (1, 2, 3):
                world.mailbox.put(7, number)
            async with world.stream(7, "?device_id=tab") as stream:
                first, second = await stream.read(), await stream.read()
                assert stream.response.headers["content-type"] == "text/event-stream"
                assert "no-store" in stream.response.headers["cache-control"]
                assert stream.response.headers["x-accel-buffering"] == "no"
                assert stream.response.headers["x-request-id"]
        assert (first.kind, first.id, first.data["type"]) == ("message", f"{EPOCH}:0", "welcome")
        assert (first.data["user_id"], first.data["device_id"]) == (7, "tab")
        assert (second.id, second.data["type"]) == (f"{EPOCH}:3", "batch")

    async def test_it_is_the_frame_of_the_websocket(self) -> None:
        async with self.world() as world, live(world) as stream, world.live(1) as client:
            frame = world.bus.deliver(1, 1)
            event = await stream.read()
            assert event.data == json.loads(frame) == await client.read()
            assert event.id == f"{EPOCH}:1"

    async def test_an_id_stays_on_frames_that_do_not_move_it(self) -> None:
        async with self.world() as world, live(world) as stream:
            world.bus.deliver(1, 1)
            world.manager.broadcast_to_user(1, {"type": "own"})
            assert [(await stream.read()).id for _ in range(2)] == [f"{EPOCH}:1"] * 2

    async def test_urgent_first_moves_the_position_only_when_all_before_it_is_there(self) -> None:
        async with self.world() as world:
            for number in range(1, 61):
                world.mailbox.put(1, number, priority=9 if number > 10 else 0)
            async with world.stream(1) as stream:
                ids = [(await stream.read()).id for _ in range(3)]
        assert ids == [f"{EPOCH}:0", f"{EPOCH}:0", f"{EPOCH}:60"]

    @pytest.mark.parametrize("way", ["header", "query"])
    async def test_a_position_resumes(self, way: str) -> None:
        async with self.world() as world:
            for number in (1, 2, 3):
                world.mailbox.put(1, number)
            world.mailbox.kept[1].clear()  # 都确认了，在别的设备上
            named = {"Last_Event_ID": f"{EPOCH}:2"} if way == "header" else {}
            query = "" if named else f"?epoch={EPOCH}&last_seq=2"
            async with world.stream(1, query, **named) as stream:
                welcome = await stream.read()
                assert welcome.data["resumed"]
                assert welcome.id == f"{EPOCH}:2"
                batch = await stream.read()
                assert [each["seq"] for each in batch.data["messages"]] == [3]
                assert batch.id == f"{EPOCH}:3"
        assert world.mailbox.resumes == [ResumePoint(EPOCH, 2)]

    async def test_what_is_not_acknowledged_comes_again_below_the_position(self) -> None:
        async with self.world() as world:
            for number in (1, 2, 3):
                world.mailbox.put(1, number)
            async with world.stream(1, Last_Event_ID=f"{EPOCH}:3") as stream:
                events = [await stream.read() for _ in range(2)]
                assert [each["seq"] for each in events[1].data["messages"]] == [1, 2, 3]
                assert {event.id for event in events} == {f"{EPOCH}:3"}

    async def test_the_header_is_newer_than_the_address(self) -> None:
        async with self.world() as world:
            query = f"?epoch={EPOCH}&last_seq=1"
            async with world.stream(1, query, Last_Event_ID=f"{EPOCH}:5") as stream:
                await stream.read()
        assert world.mailbox.resumes == [ResumePoint(EPOCH, 5)]

    @pytest.mark.parametrize("position", ["nonsense", "a:b", ":", "e:-1", "e:", "é:1"])
    async def test_a_position_that_is_none_is_resync(self, position: str) -> None:
        async with self.world() as world:
            url = f"http://127.0.0.1:{world.port}{path_of(1)}"
            headers = [
                (b"authorization", f"Bearer {world.token(1)}".encode()),
                (b"last-event-id", position.encode()),
            ]
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                stream = EventStream(response)
                kinds = [(await stream.frame())["type"] for _ in range(2)]
        assert kinds == ["welcome", "resync"]
        assert world.mailbox.resumes == [UNREADABLE_POSITION]

    async def test_a_break_inside_the_flush_loses_nothing(self) -> None:
        """读到一半就断：以最后一个 id 回来，别的设备确认了的也在。"""
        async with self.world() as world:
            for number in range(1, 121):
                world.mailbox.put(1, number)
            async with world.stream(1) as stream:
                await stream.read()
                half = await stream.read()
            world.mailbox.kept[1].clear()
            assert half.id is not None
            async with world.stream(1, Last_Event_ID=half.id) as stream:
                rest = await stream.messages(70)
        assert half.id == f"{EPOCH}:50"
        assert [each["seq"] for each in rest] == list(range(51, 121))

    async def test_a_line_break_in_a_foreign_frame_makes_no_event(self) -> None:
        async with self.world() as world, live(world) as stream:
            world.bus.publish(
                1, b'{"type":"new_message",\r\n\r\n"message_id":"m",\n"title":"t","content":"c"}'
            )
            event = await stream.read()
            assert (event.kind, event.data["title"]) == ("message", "t")

    async def test_a_foreign_message_with_a_seq_moves_the_position(self) -> None:
        async with self.world() as world, live(world) as stream:
            world.mailbox.seqs[1] = 1
            world.bus.publish(
                1,
                b'{ "message_id":"m", "type":"new_message", "seq":1, "title":"t", "content":"c"}',
            )
            assert (await stream.read()).id == f"{EPOCH}:1"

    async def test_a_hole_is_filled_and_the_ids_never_run_ahead(self) -> None:
        async with self.world() as world, live(world) as stream:
            world.mailbox.put(1, 1)  # 没有听到
            world.bus.deliver(1, 2)
            got, ids = list[int](), list[str]()
            while len(got) < 2:
                event = await stream.read()
                frames = event.data["messages"] if event.data["type"] == "batch" else [event.data]
                got += [each["seq"] for each in frames]
                ids.append(str(event.id))
        assert sorted(got) == [1, 2]
        assert ids[-1] == f"{EPOCH}:2"


class StreamRefusingBehaviour(EdgeHarness):
    @pytest.mark.parametrize(
        ("token", "status", "code"),
        [
            ("", 401, "invalid_token"),
            ("nonsense", 401, "invalid_token"),
            ("late", 401, "token_expired"),
            ("other", 403, "forbidden"),
        ],
    )
    async def test_a_refused_token_is_an_http_answer(
        self, token: str, status: int, code: str
    ) -> None:
        async with self.world(auth_failure_delay_s=0) as world:
            world.verifier.tokens["late"] = TokenExpiredError("expired")
            given = world.token(2) if token == "other" else token
            named = {"Authorization": f"Bearer {given}"} if given else {}
            answer = await ask(world, path_of(1), **named)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-request-id"]
            assert ("www-authenticate" in answer.headers) == (status == 401)
            await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.manager.user_connections == {}

    @pytest.mark.parametrize("query", ["?token={}", "?ticket={}"])
    async def test_the_query_carries_a_token(self, query: str) -> None:
        async with self.world() as world:
            token = world.token(1)
            if "ticket" in query:
                known = world.verifier.tokens[token]
                assert isinstance(known, Principal)
                world.verifier.tickets[token] = known
            url = f"http://127.0.0.1:{world.port}{path_of(1, query.format(token))}"
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("GET", url) as response,
            ):
                assert (await EventStream(response).frame())["type"] == "welcome"

    async def test_a_full_address_is_429(self) -> None:
        async with self.world(max_connections_per_address=1) as world, live(world):
            named = {"Authorization": f"Bearer {world.token(1)}"}
            answer = await ask(world, path_of(1), **named)
            assert answer.status_code == 429
            assert answer.json()["error"] == {
                "code": "rate_limited",
                "message": "too many connections",
                "temporary": True,
                "details": None,
            }
            assert answer.headers["retry-after"]

    async def test_a_leaving_node_is_503(self) -> None:
        async with self.world() as world:
            world.manager.refuse(CloseCode.SERVER_DRAINING)
            answer = await ask(world, path_of(1), Authorization=f"Bearer {world.token(1)}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")

    @pytest.mark.parametrize("user", ["x", "0", "01", "-1"])
    async def test_nobody_is_404(self, user: str) -> None:
        async with self.world() as world:
            answer = await ask(world, path_of(user), Authorization=f"Bearer {world.token(1)}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")

    async def test_another_method_is_405(self) -> None:
        async with self.world() as world:
            answer = await ask(world, path_of(1), "DELETE")
            assert answer.status_code == 405
            assert "GET" in answer.headers["allow"]

    async def test_a_foreign_page_is_403(self) -> None:
        async with self.world(allowed_origins=[LISTED]) as world:
            named = {"Authorization": f"Bearer {world.token(1)}", "Origin": "https://evil.example"}
            answer = await ask(world, path_of(1), **named)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
            assert "access-control-allow-origin" not in answer.headers

    async def test_a_listed_page_may_read_the_stream_and_the_refusals(self) -> None:
        async with self.world(allowed_origins=[LISTED], auth_failure_delay_s=0) as world:
            async with world.stream(1, Origin=LISTED) as stream:
                await stream.read()
                assert stream.response.headers["access-control-allow-origin"] == LISTED
                assert stream.response.headers["vary"] == "Origin"
            refused = await ask(world, path_of(1), Origin=LISTED)
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == LISTED
            asked = {"Origin": LISTED, "Access-Control-Request-Method": "GET"}
            preflight = await ask(world, path_of(1), "OPTIONS", **asked)
            assert preflight.status_code == 204
            assert "Last-Event-ID" in preflight.headers["access-control-allow-headers"]

    async def test_the_id_of_the_request_comes_back(self) -> None:
        async with self.world(auth_failure_delay_s=0) as world:
            async with world.stream(1, X_Request_ID="mine-1") as stream:
                assert stream.response.headers["x-request-id"] == "mine-1"
            refused = await ask(world, path_of(1), X_Request_ID="mine-2")
            assert refused.headers.get_list("x-request-id") == ["mine-2"]


class LivingBehaviour(EdgeHarness):
    async def test_a_comment_comes_and_keeps_it_alive(self) -> None:
        async with (
            self.world(heartbeat_interval_s=0.2, heartbeat_timeout_s=0.4) as world,
            live(world) as stream,
        ):
            reading = asyncio.create_task(stream.read())
            await eventually(lambda: stream.comments >= 8)  # 两倍的期限
            assert world.manager.statistics().streams == 1
            world.bus.deliver(1, 1)
            assert (await reading).data["seq"] == 1
            assert ("heartbeat", 1) in world.presence.events

    async def test_an_expired_token_is_told(self) -> None:
        async with self.world(**QUICK_SWEEP) as world, live(world) as stream:
            [line] = world.manager.streams
            line.session.token_expires_at = 1
            world.manager.heartbeat.schedule(line)
            assert await stream.closed() == {"code": 4004, "name": "token_expired"}

    async def test_a_kicked_stream_is_told_and_the_other_stays(self) -> None:
        async with self.world() as world, live(world) as one, world.live(1) as two:
            [kicked] = world.manager.streams
            assert kicked.info().transport == "sse"
            world.manager.disconnect_user(1, kicked, CloseCode.KICKED)
            assert await one.closed() == {"code": 4503, "name": "kicked"}
            world.bus.deliver(1, 1)
            assert (await two.read())["seq"] == 1

    async def test_close_all_says_why_and_empties_the_house(self) -> None:
        async with self.world() as world, live(world) as stream:
            closing = asyncio.create_task(world.manager.close_all(spread_s=0.05))
            assert (await stream.frame())["code"] == "draining"
            assert await stream.closed() == {"code": 4000, "name": "server_draining"}
            await closing
            assert world.manager.statistics().sockets == 0

    async def test_who_leaves_is_gone_at_once(self) -> None:
        async with self.world() as world:
            async with live(world):
                pass
            await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.presence.online == {}
            assert world.manager.statistics().streams == 0
            assert world.manager.statistics().endings == {"normal": 1}

    async def test_an_unread_stream_is_4001_and_delays_nobody(self) -> None:
        limits = {"outbox_max_bytes": 256 * 1024, "handshake_timeout_s": 0.5}
        async with self.world(**limits) as world, live(world, 2) as other:
            async with unread(world, 1):
                await stuff(world, 1)
                world.bus.deliver(2, 1)
                assert (await other.frame())["title"] == "t1"
                await eventually(lambda: world.manager.statistics().sockets == 1)
            assert world.manager.statistics().closes[4001] == 1

    async def test_what_a_stream_got_is_retried_when_nobody_acknowledges(self) -> None:
        async with self.world(retry_delays_s=[0.2]) as world, live(world):
            world.bus.deliver(1, 1)
            await eventually(lambda: world.retries.claimed)


class StreamBehaviour(OpeningBehaviour, StreamRefusingBehaviour, LivingBehaviour):
    pass
