"""连接的开始：welcome、先补发后实时、次序、去重、断号、Redis 不可用。"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from meeting_push.mailbox_model import ResumePoint
from meeting_push.protocol.envelope import new_message
from meeting_push.websocket.handshake import UNREADABLE_POSITION
from meeting_push.websocket.opening import MAX_LOADS, MAX_READS
from tests.support.eventually import eventually
from tests.support.stand_ins import EPOCH, message_id, tail

from .harness import EdgeHarness
from .slowness import deaf


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [int(message["title"][1:]) for message in messages]


class FlushBehaviour(EdgeHarness):
    async def test_welcome_is_first_and_complete(self) -> None:
        async with self.world() as world:
            world.mailbox.put(7, 1)
            async with world.live(7, "?device_id=phone") as client:
                welcome = client.welcome
        assert welcome["user_id"] == 7
        assert welcome["device_id"] == "phone"
        assert welcome["epoch"] == EPOCH
        assert (welcome["seq"], welcome["pending"], welcome["resumed"]) == (1, 1, False)
        assert (welcome["heartbeat_interval_s"], welcome["heartbeat_timeout_s"]) == (30, 60)
        assert welcome["max_frame_bytes"] == 64 * 1024
        assert welcome["token_expires_at"] > welcome["server_time"]
        assert welcome["connection_id"]

    async def test_a_withdrawal_that_waits_is_one_of_the_pending(self) -> None:
        """它占信箱的一格，补发时独自一帧：数着 ``pending`` 的不能只数 ``new_message``。"""
        async with self.world() as world:
            world.mailbox.put(7, 1)
            world.mailbox.put(7, 2, withdrawn=True)
            world.mailbox.put(7, 3)
            async with world.live(7) as client:
                assert client.welcome["pending"] == 3
                frames = [await client.read() for _ in range(3)]
        kinds = [(one["type"], one.get("seq"), len(one.get("messages", ()))) for one in frames]
        assert kinds == [("batch", None, 1), ("withdrawn", 2, 0), ("batch", None, 1)]

    async def test_the_mailbox_comes_urgent_first_then_by_seq(self) -> None:
        async with self.world() as world:
            for number, priority in enumerate([0, 9, 0, 9, 5], start=1):
                world.mailbox.put(1, number, priority=priority)
            async with world.live(1) as client:
                assert numbers(await client.read_messages(5)) == [2, 4, 5, 1, 3]

    async def test_the_flush_comes_in_bounded_batches(self) -> None:
        async with self.world() as world:
            for number in range(1, 121):
                world.mailbox.put(1, number)
            async with world.live(1) as client:
                batches = [await client.read() for _ in range(3)]
        assert [len(batch["messages"]) for batch in batches] == [50, 50, 20]

    async def test_a_batch_is_bounded_in_bytes(self) -> None:
        async with self.world() as world:
            for number in range(1, 8):
                world.mailbox.put(1, number, content="x" * 60_000)
            async with world.live(1, max_size=None) as client:
                sizes = [len(await client.read_text()) for _ in range(2)]
        assert all(size < 257 * 1024 for size in sizes)

    async def test_only_a_few_of_many_who_return_read_at_the_same_time(self) -> None:
        """读信箱、取正文与别人的投递共用一条 Redis 连接、一个事件循环：不能一拥而上。"""
        users = range(1, 31)
        async with self.world() as world:
            world.mailbox.pace_s = 0.01
            for user in users:
                world.mailbox.put(user, user)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(world.client(user)) for user in users]
                for client in clients:
                    assert (await client.read())["type"] == "welcome"
                got = [numbers(await client.read_messages(1)) for client in clients]
        assert got == [[user] for user in users]
        assert 1 < world.mailbox.most["open"] <= MAX_READS
        assert 1 < world.mailbox.most["load"] <= MAX_LOADS

    async def test_a7_the_devices_of_one_person_read_one_after_the_other(self) -> None:
        """A7: who reconnects with two hundred devices does not take all the places."""
        async with self.world() as world:
            world.mailbox.pace_s = 0.01
            world.mailbox.put(1, 1)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(world.live(1)) for _ in range(10)]
                got = [numbers(await client.read_messages(1)) for client in clients]
        assert got == [[1]] * 10
        assert world.mailbox.most["load"] == 1

    async def test_live_frames_wait_for_the_flush(self) -> None:
        async with self.world() as world:
            world.mailbox.put(1, 1)
            world.mailbox.put(1, 2)
            world.mailbox.gate.clear()
            async with world.client(1) as client:
                await world.mailbox.opened.wait()
                world.bus.deliver(1, 3)
                world.mailbox.gate.set()
                assert (await client.read())["type"] == "welcome"
                assert numbers(await client.read_messages(3)) == [1, 2, 3]

    async def test_what_the_flush_pushed_is_not_pushed_live_again(self) -> None:
        """先订阅后读取：两边重叠的按 seq 去重。"""
        async with self.world() as world:
            frame = world.mailbox.put(1, 1)
            world.mailbox.gate.clear()
            async with world.client(1) as client:
                await world.mailbox.opened.wait()
                world.bus.publish(1, frame)
                world.mailbox.gate.set()
                await client.read()
                await client.read()
                world.bus.publish(1, frame)
                world.bus.deliver(1, 2)
                assert numbers(await client.read_messages(1)) == [2]

    async def test_a_retry_passes(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            await client.read()
            world.bus.publish(1, new_message(1, 2, tail(1)))
            again = await client.read()
            assert (again["seq"], again["attempt"]) == (1, 2)

    async def test_a_missing_seq_is_fetched_from_the_mailbox_in_order(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            world.mailbox.put(1, 2)  # 存了，发布丢了
            world.bus.deliver(1, 3)
            assert numbers(await client.read_messages(3)) == [1, 2, 3]

    async def test_reread_pushes_only_what_was_not_pushed(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            world.mailbox.put(1, 2)
            await world.manager.reread_all()
            world.bus.deliver(1, 3)
            assert numbers(await client.read_messages(3)) == [1, 2, 3]

    async def test_a_lost_redis_is_announced_with_resync(self) -> None:
        async with self.world() as world, world.live(1) as client:
            world.bus.deliver(1, 1)
            await client.read()
            world.mailbox.epoch = "epoch-2"
            world.mailbox.seqs.clear()
            world.mailbox.kept.clear()
            world.mailbox.put(1, 2)
            await world.manager.reread(1)
            resync = await client.read()
            assert resync == {
                "type": "resync",
                "reason": "epoch_changed",
                "epoch": "epoch-2",
                "seq": 1,
            }
            assert numbers(await client.read_messages(1)) == [2]

    async def test_what_another_device_acked_meanwhile_still_comes(self) -> None:
        """E1：漏收期间别的设备确认了的已不在信箱，重读要从自己的位置读日志。"""
        async with self.world() as world, world.live(1) as client:
            world.mailbox.put(1, 1)
            world.mailbox.kept.clear()
            await world.manager.reread_all()
            assert numbers(await client.read_messages(1)) == [1]

    async def test_a_hole_is_filled_from_the_log(self) -> None:
        """E1：断号的那些也许已被别的设备确认。"""
        async with self.world() as world, world.live(1) as client:
            world.mailbox.put(1, 1)
            world.mailbox.kept.clear()
            world.bus.deliver(1, 2)
            assert numbers(await client.read_messages(2)) == [1, 2]

    async def test_the_resume_point_is_handed_to_the_mailbox(self) -> None:
        async with self.world() as world:
            for number in (1, 2, 3):
                world.mailbox.put(1, number)
            world.mailbox.kept.clear()  # 别的设备都确认了
            async with world.live(1, f"?epoch={EPOCH}&last_seq=2") as client:
                assert client.welcome["resumed"] is True
                assert numbers(await client.read_messages(1)) == [3]
            assert world.mailbox.resumes == [ResumePoint(EPOCH, 2)]

    async def test_c7_a_malformed_resume_point_is_told_so(self) -> None:
        async with self.world() as world:
            for query in ("?epoch=e&last_seq=-1", "?epoch=&last_seq=1", "?last_seq=2", "?epoch=e"):
                async with world.live(1, query) as client:
                    assert (await client.read())["type"] == "resync"
            assert world.mailbox.resumes == [UNREADABLE_POSITION] * 4

    async def test_two_devices_subscribe_once_and_get_the_same_bytes(self) -> None:
        async with self.world() as world, world.live(1) as phone, world.live(1) as laptop:
            frame = world.bus.deliver(1, 1).decode()
            assert await phone.read_text() == frame
            assert await laptop.read_text() == frame
            assert world.channels.calls == [("subscribe", 1)]

    async def test_two_devices_connecting_at_once_wait_for_one_confirmation(self) -> None:
        async with self.world() as world:
            world.channels.up.clear()
            async with world.client(1) as phone, world.client(1) as laptop:
                await eventually(lambda: len(world.manager.get_user_connections(1)) == 2)
                world.channels.up.set()
                assert (await phone.read())["type"] == (await laptop.read())["type"] == "welcome"
            assert world.channels.calls[0] == ("subscribe", 1)
            assert world.channels.calls.count(("subscribe", 1)) == 1

    async def test_the_last_device_unsubscribes(self) -> None:
        async with self.world() as world:
            async with world.live(1):
                async with world.live(1):
                    pass
                await eventually(lambda: len(world.manager.get_user_connections(1)) == 1)
                assert ("unsubscribe", 1) not in world.channels.calls
            await eventually(lambda: world.manager.user_connections == {})
            assert world.channels.calls == [("subscribe", 1), ("unsubscribe", 1)]

    async def test_leaving_while_connecting_leaves_nothing_behind(self) -> None:
        async with self.world() as world:
            world.channels.up.clear()
            async with world.client(1):
                await eventually(lambda: world.manager.get_user_connections(1))
            await eventually(lambda: world.manager.statistics().sockets == 0)
            assert world.manager.user_connections == {}
            assert world.presence.events == []
            world.channels.up.set()
            async with world.live(1):
                assert world.channels.subscribed == {1}

    async def test_redis_back_in_time_opens_the_connection(self) -> None:
        async with self.world() as world:
            world.mailbox.available = False
            async with world.client(1) as client:
                await eventually(lambda: world.manager.get_user_connections(1))
                world.mailbox.available = True
                assert (await client.read())["type"] == "welcome"

    async def test_redis_down_for_too_long_is_4007(self) -> None:
        async with self.world(redis_timeout_s=0.1) as world:
            world.channels.up.clear()
            async with world.client(1) as client:
                assert await client.closed() == (4007, "node_unhealthy")

    async def test_frames_sent_before_the_welcome_are_answered_after_it(self) -> None:
        async with self.world() as world:
            world.channels.up.clear()
            async with world.client(1) as client:
                await client.send(type="heartbeat", timestamp=1)
                await eventually(lambda: world.manager.get_user_connections(1))
                world.channels.up.set()
                assert (await client.read())["type"] == "welcome"
                assert (await client.read())["type"] == "heartbeat_ack"

    async def test_a_flush_larger_than_the_outbox_arrives_whole(self) -> None:
        """补发等发件箱，不撑破它。"""
        async with self.world(outbox_max_bytes=64 * 1024) as world:
            for number in range(1, 401):
                world.mailbox.put(1, number, content="x" * 20_000)
            async with world.live(1, max_size=None) as client:
                assert numbers(await client.read_messages(400)) == list(range(1, 401))

    async def test_a7_what_a_blocked_connection_can_not_take_is_let_go_and_read_again(self) -> None:
        """A7: hundreds of connections that do not read hold a part each, not fifty messages."""
        async with self.world() as world:
            for number in range(1, 201):
                world.mailbox.put(1, number, content="x" * 60_000)
            async with deaf(world, 1) as client:
                [connection] = world.manager.get_user_connections(1)
                await eventually(lambda: connection.outbox.blocked_since is not None)
                assert numbers(await client.read_messages(200)) == list(range(1, 201))
        assert world.mailbox.taken[0] == 50
        assert min(world.mailbox.taken) < 10

    async def test_acked_ids_reach_the_sink_with_their_seq(self) -> None:
        async with self.world() as world:
            world.mailbox.put(1, 5)
            async with world.live(1) as client:
                await client.read()
                await client.send(type="ack", message_ids=[message_id(5)])
                await eventually(lambda: world.acks.ids == [message_id(5)])
                assert world.acks.recorded[0][1].seq == 1

    async def test_frames_published_by_anyone_pass_if_they_are_well_formed(self) -> None:
        async with self.world() as world, world.live(1) as client:
            for bad in (b"", b"nonsense", b"[]", b'{"type":"welcome"}', b'{"type":"new_message"}'):
                world.bus.publish(1, bad)
            good = {"type": "new_message", "message_id": "m-1", "title": "t", "content": "c"}
            world.bus.publish(1, json.dumps(good).encode())
            assert await client.read() == good
            assert world.manager.statistics().drops == {"malformed_envelope": 5}

    async def test_a_broadcast_reaches_every_user(self) -> None:
        async with self.world() as world, world.live(1) as one, world.live(2) as two:
            notice = b'{"type":"notice","code":"draining","reconnect_after_ms":5}'
            world.bus.publish_to_all(notice)
            assert (await one.read_text(), await two.read_text()) == (notice.decode(),) * 2
