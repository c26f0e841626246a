"""客户端的帧：心跳、确认、状态、已读、换令牌，以及坏帧。"""

from __future__ import annotations

import json

import pytest

from meeting_push.errors import RedisUnavailableError
from tests.support.edge_world import Client
from tests.support.eventually import eventually
from tests.support.stand_ins import message_id

from .harness import EdgeHarness


async def still_alive(client: Client) -> bool:
    answer = await client.ask(type="heartbeat", timestamp=1)
    return bool(answer["type"] == "heartbeat_ack")


async def two_sockets() -> bytes:
    return b'{"sockets":2}'


class AckBehaviour(EdgeHarness):
    async def test_ids_are_recorded_for_their_user(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            world.bus.deliver(1, 2)
            await client.read_messages(2)
            ids = [message_id(1), message_id(2)]
            result = await client.ask(type="ack", message_ids=ids, request_id="r")
            assert result == {
                "type": "ack_result",
                "accepted": 2,
                "unknown": [],
                "request_id": "r",
            }
            assert world.acks.ids == ids
            assert {user_id for user_id, _ in world.acks.recorded} == {1}

    async def test_upto_covers_what_was_sent_and_nothing_else(self) -> None:
        async with self.world() as world, world.live(1) as client:
            for number in (1, 2, 3):
                world.bus.deliver(1, number)
            await client.read_messages(3)
            result = await client.ask(type="ack", upto=2, request_id=1)
            assert result["accepted"] == 2
            assert world.acks.ids == [message_id(1), message_id(2)]

    async def test_upto_never_covers_the_unsent(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            await client.read()
            await client.ask(type="ack", upto=10**9, request_id=1)
            world.bus.deliver(1, 2)
            await client.read()
            assert world.acks.ids == [message_id(1)]

    async def test_ids_that_were_not_pushed_here_are_verified(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.acks.confirmable = {message_id(8)}
            ids = [message_id(8), message_id(9)]
            result = await client.ask(type="ack", message_ids=ids, request_id="r")
            assert (result["accepted"], result["unknown"]) == (1, [message_id(9)])
            assert world.acks.recorded == []

    async def test_without_request_id_there_is_no_answer(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.send(type="ack", message_ids=[message_id(9)])
            assert await still_alive(client)

    async def test_one_device_can_not_ack_for_another_user(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(2) as two:
            world.bus.deliver(1, 1)
            await one.read()
            result = await two.ask(type="ack", message_ids=[message_id(1)], request_id=1)
            assert result["unknown"] == [message_id(1)]
            assert world.acks.recorded == []

    async def test_an_unavailable_sink_is_a_temporary_error(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.acks.failure = RedisUnavailableError("down")
            error = await client.ask(type="ack", message_ids=[message_id(1)], request_id="r")
            assert (error["code"], error["temporary"]) == ("redis_unavailable", True)
            assert error["request_id"] == "r"

    async def test_requests_in_flight_are_bounded(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.acks.gate.clear()
            for number in range(8):
                await client.send(type="ack", message_ids=[message_id(number)])
            error = await client.ask(type="ack", message_ids=[message_id(9)], request_id="r")
            assert (error["code"], error["temporary"]) == ("busy", True)
            world.acks.gate.set()
            await eventually(lambda: len(world.acks.confirmed) == 8)


class RequestBehaviour(EdgeHarness):
    async def test_a_heartbeat_is_echoed(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            await client.read()
            answer = await client.ask(
                type="heartbeat",
                timestamp=123,
                connection_id=client.welcome["connection_id"],
                request_id=5,
            )
            assert answer["type"] == "heartbeat_ack"
            assert (answer["timestamp"], answer["seq"], answer["request_id"]) == (123, 1, 5)
            assert answer["server_time"] >= client.welcome["server_time"]
            assert ("heartbeat", 1) in world.presence.events

    async def test_the_heartbeat_of_another_connection_is_refused(self) -> None:
        async with self.world() as world, world.live(1) as client:
            error = await client.ask(type="heartbeat", timestamp=1, connection_id="other")
            assert error["code"] == "wrong_connection"
            assert ("heartbeat", 1) not in world.presence.events

    async def test_status_reaches_presence(self) -> None:
        async with self.world() as world, world.live(1) as client:
            answer = await client.ask(
                type="status", status="away", device_info="tv\x00\n", request_id=1
            )
            assert answer == {"type": "status_result", "status": "away", "request_id": 1}
            assert ("status", 1, "away", "tv") in world.presence.events
            assert world.manager.get_user_connections(1)[0].info().status == "away"

    async def test_read_is_marked_and_counted(self) -> None:
        async with self.world() as world, world.live(1) as client:
            answer = await client.ask(type="read", message_ids=[message_id(1)], request_id=1)
            assert (answer["type"], answer["unread_count"]) == ("read_sync", 3)
            assert world.reads.read == [(1, (message_id(1),))]

    async def test_watching_says_how_many(self) -> None:
        async with self.world() as world, world.live(1) as client:
            answer = await client.ask(type="watch", user_ids=[2, 3], request_id=1)
            assert (answer["type"], answer["watching"]) == ("watch_result", 2)
            answer = await client.ask(type="unwatch", user_ids=[2], request_id=2)
            assert (answer["type"], answer["watching"]) == ("watch_result", 1)

    async def test_an_administrator_watches_operations(self) -> None:
        async with self.world() as world:
            world.manager.ops.provide(two_sockets)
            async with world.live(1, token=world.token(1, role="admin")) as client:
                answer = await client.ask(type="ops_watch", every_s=5, request_id="o")
                assert answer == {"type": "ops_watch_result", "every_s": 5, "request_id": "o"}
                await world.manager.ops.step()
                frame = await client.read()
                assert (frame["type"], frame["stats"]) == ("ops", {"sockets": 2})

    async def test_nobody_else_watches_operations(self) -> None:
        async with self.world() as world, world.live(1) as client:
            error = await client.ask(type="ops_watch", request_id="o")
            assert (error["type"], error["code"]) == ("error", "forbidden")
            assert error["request_id"] == "o"
            assert await still_alive(client)

    async def test_a_refreshed_token_counts_from_then_on(self) -> None:
        async with self.world() as world, world.live(1) as client:
            fresh = world.token(1, ttl_ms=9_000_000)
            answer = await client.ask(type="refresh_token", token=fresh, request_id=1)
            assert answer["type"] == "token_refreshed"
            assert answer["token_expires_at"] > client.welcome["token_expires_at"]

    async def test_the_token_of_another_user_closes_4501(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.send(type="refresh_token", token=world.token(2))
            assert await client.closed() == (4501, "forbidden")

    async def test_an_invalid_new_token_closes_4500(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.send(type="refresh_token", token="nonsense")
            assert await client.closed() == (4500, "invalid_token")

    async def test_presence_sees_the_device_come_and_go(self) -> None:
        async with self.world() as world:
            async with world.live(1, "?device_id=phone&device_info=Pixel%209") as client:
                (info,) = world.presence.online.values()
                assert (info.device_id, info.device_info) == ("phone", "Pixel 9")
                assert (info.ip_address, info.node) == ("127.0.0.1", "node-1")
                assert info.connection_id == client.welcome["connection_id"]
            await eventually(lambda: world.presence.online == {})

    async def test_c6_a_whole_number_may_be_written_as_a_float(self) -> None:
        async with self.world() as world, world.live(1) as client:
            for number in (1, 2, 3):
                world.bus.deliver(1, number)
            await client.read_messages(3)
            await client.websocket.send('{"type":"ack","upto":2.0,"request_id":1e1}')
            answer = await client.read()
            assert (answer["accepted"], answer["request_id"]) == (2, 10)
            await client.websocket.send('{"type":"heartbeat","timestamp":1.7955E12}')
            assert (await client.read())["timestamp"] == 1_795_500_000_000

    async def test_c6_a_fraction_is_no_whole_number(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.websocket.send('{"type":"ack","upto":2.5}')
            assert (await client.read())["code"] == "invalid_frame"


BAD_FRAMES = [
    ("nonsense", "invalid_json"),
    ("[]", "invalid_frame"),
    ('{"type":"dance"}', "unknown_type"),
    ('{"type":"heartbeat"}', "invalid_frame"),
    ('{"type":"ack"}', "invalid_frame"),
    ('{"type":"ack","message_ids":["short"]}', "invalid_frame"),
    ('{"type":"status","status":"dead"}', "invalid_frame"),
    ('{"type":"heartbeat","timestamp":1,"pad":' + "[" * 5000, "invalid_json"),
    ('{"type":"heartbeat","timestamp":1,"pad":"' + "x" * 65536 + '"}', "frame_too_large"),
]


class BadFrameBehaviour(EdgeHarness):
    @pytest.mark.parametrize(("text", "code"), BAD_FRAMES)
    async def test_a_bad_frame_is_an_error_and_the_socket_stays(self, text: str, code: str) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.websocket.send(text)
            error = await client.read()
            assert (error["type"], error["code"], error["temporary"]) == ("error", code, False)
            assert await still_alive(client)

    async def test_the_error_carries_the_request_id(self) -> None:
        async with self.world() as world, world.live(1) as client:
            assert (await client.ask(type="dance", request_id="r"))["request_id"] == "r"

    async def test_binary_is_not_supported(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.websocket.send(b'{"type":"heartbeat","timestamp":1}')
            assert (await client.read())["code"] == "binary_not_supported"
            assert await still_alive(client)

    @pytest.mark.parametrize("text", [b'{"type":"\xff"}', b'{"type":"dance","pad":"\xff"}'])
    async def test_c9_invalid_utf8_is_1007_wherever_it_stands(self, text: bytes) -> None:
        async with self.world() as world, world.live(1) as client:
            await client.websocket.send(text, text=True)
            assert (await client.closed())[0] == 1007

    async def test_fragments_are_one_frame(self) -> None:
        async with self.world() as world, world.live(1) as client:
            whole = json.dumps({"type": "heartbeat", "timestamp": 42})
            await client.websocket.send([whole[:5], whole[5:20], whole[20:]])
            assert (await client.read())["timestamp"] == 42

    async def test_fragments_are_bounded(self) -> None:
        async with self.world(max_frame_bytes=1024) as world, world.live(1) as client:
            await client.websocket.send(["x" * 600] * 2)
            assert (await client.read())["code"] == "frame_too_large"

    async def test_far_too_large_is_1009(self) -> None:
        async with self.world(max_frame_bytes=1024) as world, world.live(1) as client:
            await client.websocket.send("x" * 3000)
            assert (await client.closed())[0] == 1009

    async def test_twenty_bad_frames_close_4504(self) -> None:
        async with self.world() as world, world.live(1) as client:
            for _ in range(20):
                await client.websocket.send("nonsense")
            for _ in range(20):
                assert (await client.read())["code"] == "invalid_json"
            assert await client.closed() == (4504, "protocol_violation")
            assert world.manager.statistics().bad_frames == 20

    async def test_a_ping_is_answered(self) -> None:
        async with self.world() as world, world.live(1) as client:
            await (await client.websocket.ping(b"hello"))
