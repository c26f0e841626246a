"""E1：一个网关与 Redis 之间断了一阵，别的设备期间确认了的，守在那里的也都得到。

不长，守着的连接没有被请走（久了的见 4007）；两种断法：掐断、半开。
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from meeting_push.client import PushClient, ReceivedMessage
from meeting_push.redis.keys import Keys
from tests.support.event_streams import event_stream
from tests.support.eventually import eventually
from tests.support.meetings import hold, live
from tests.support.people import Device, Person, api_of, delivery, device, register, send

from .fleet import Fleet, Node, person

MESSAGES = 20


def cut(node: Node) -> None:
    node.redis.refuse()


def half_open(node: Node) -> None:
    node.redis.swallow()


WAYS = pytest.mark.parametrize("break_link", [cut, half_open])


async def ack_next(desk: Device) -> str:
    message_id = str((await desk.next_message())["message_id"])
    await desk.ack(message_id)
    return message_id


async def all_delivered(fleet: Fleet, sender: Person, message_ids: list[str]) -> None:
    async def delivered() -> bool:
        seen = [await delivery(fleet.api.url, sender, i) for i in message_ids]
        return all(each["delivered"] == 1 for each in seen)

    await eventually(delivered, 15)


@WAYS
async def test_e1_what_was_acked_elsewhere_meanwhile_reaches_the_device(
    fleet: Fleet, break_link: Callable[[Node], None]
) -> None:
    near, far = fleet.gateways
    alice, bob = await register(fleet.api.url, "alice"), await register(fleet.api.url, "bob")
    phones = device(near.server.ws_url(bob.user_id), bob)
    desks = device(far.server.ws_url(bob.user_id), bob)
    with fleet.mended():
        async with phones as phone, desks as desk:
            break_link(near)
            sent = [await send(fleet.api.url, alice, [bob]) for _ in range(MESSAGES)]
            assert sorted([await ack_next(desk) for _ in sent]) == sorted(sent)
            await all_delivered(fleet, alice, sent)
            near.redis.release()
            got = [(await phone.next_message(20))["message_id"] for _ in sent]
            assert sorted(got) == sorted(sent)
            assert [frame["type"] for frame in phone.others] == []


@WAYS
async def test_e1_a_stream_gets_it_too_and_its_acks_count(
    fleet: Fleet, break_link: Callable[[Node], None]
) -> None:
    """SSE 的设备，确认走 REST；断着时别处确认了的，断着时没有人确认的，都正好一次。"""
    near, far = fleet.gateways
    alice, bob = await register(fleet.api.url, "alice"), await register(fleet.api.url, "bob")
    address = f"{near.url}/sse/user/{bob.user_id}/messages"
    desks = device(far.server.ws_url(bob.user_id), bob)
    with fleet.mended():
        async with event_stream(address, bob.headers) as stream, desks as desk:
            assert (await stream.frame())["type"] == "welcome"
            break_link(near)
            elsewhere = [await send(fleet.api.url, alice, [bob]) for _ in range(MESSAGES)]
            assert sorted([await ack_next(desk) for _ in elsewhere]) == sorted(elsewhere)
            await all_delivered(fleet, alice, elsewhere)
            left = [await send(fleet.api.url, alice, [bob]) for _ in range(3)]
            near.redis.release()
            got = [one["message_id"] for one in await stream.messages(MESSAGES + len(left))]
            assert sorted(got) == sorted(elsewhere + left)
            async with api_of(fleet.api.url, bob) as api:
                answer = await api.post("/acks", json={"message_ids": left})
            assert answer.json()["accepted"] == len(left), answer.text
            await all_delivered(fleet, alice, left)


async def test_e1_redis_drops_a_gateway_that_lags_and_its_devices_miss_nothing(
    fleet: Fleet,
) -> None:
    """网关停住不读，输出缓冲满了，Redis 断开它的订阅；它醒来后补上。"""
    near, far = fleet.gateways
    names = ("alice", "eve", "frank")
    alice, eve, frank = [await register(fleet.api.url, name) for name in names]
    with Redis.from_url(fleet.redis.url) as redis, small_output_buffers(redis), fleet.mended():
        async with (
            device(near.server.ws_url(eve.user_id), eve) as phone,
            device(far.server.ws_url(eve.user_id), eve) as desk,
            device(near.server.ws_url(frank.user_id), frank),
        ):
            os.kill(near.server.pid, signal.SIGSTOP)
            try:
                sent = [await send(fleet.api.url, alice, [eve]) for _ in range(MESSAGES)]
                for _ in sent:
                    await ack_next(desk)
                flood(redis, frank)
            finally:
                os.kill(near.server.pid, signal.SIGCONT)
            got = [(await phone.next_message(20))["message_id"] for _ in sent]
            assert sorted(got) == sorted(sent)


@contextlib.contextmanager
def small_output_buffers(redis: Redis) -> Iterator[None]:
    before = redis.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    redis.config_set("client-output-buffer-limit", "pubsub 64kb 64kb 1")
    try:
        yield
    finally:
        redis.config_set("client-output-buffer-limit", str(before))


def flood(redis: Redis, receiver: Person) -> None:
    """瞬时消息塞满路上的缓冲，直到 Redis 断开停着的那个订阅者。"""
    channel = Keys().user_channel(receiver.user_id)
    frame = json.dumps({"type": "new_message", "message_id": "m", "title": "x" * 60_000})
    for _ in range(1_000):
        if not redis.publish(channel, frame):
            return
    raise AssertionError("Redis kept a subscriber that does not read")


async def test_e1_the_sdk_misses_nothing(fleet: Fleet) -> None:
    near, far = fleet.gateways
    alice, carol = await register(fleet.api.url, "alice"), await register(fleet.api.url, "carol")
    got: list[str] = []
    client = PushClient(near.url, carol.token)

    @client.on_message
    def take(message: ReceivedMessage) -> None:
        got.append(message.message_id)

    with fleet.mended():
        running = asyncio.create_task(client.run())
        try:
            await asyncio.wait_for(client.connected.wait(), 10)
            async with device(far.server.ws_url(carol.user_id), carol) as desk:
                cut(near)
                sent = [await send(fleet.api.url, alice, [carol]) for _ in range(MESSAGES)]
                for _ in sent:
                    await ack_next(desk)
                near.redis.release()
                await eventually(lambda: sorted(got) == sorted(sent), 20)
        finally:
            await client.close()
            await running


async def test_e1_a_broadcast_acked_elsewhere_meanwhile_reaches_the_device(fleet: Fleet) -> None:
    near, far = fleet.gateways
    dave = await register(fleet.api.url, "dave")
    root = person(900, "admin")
    phones = device(near.server.ws_url(dave.user_id), dave)
    desks = device(far.server.ws_url(dave.user_id), dave)
    with fleet.mended():
        async with phones as phone, desks as desk:
            cut(near)
            async with api_of(fleet.api.url, root) as api:
                answer = await api.post("/messages/broadcast", json={"title": "t", "content": "c"})
            message_id = answer.json()["message_id"]
            assert await ack_next(desk) == message_id
            await all_delivered(fleet, root, [message_id])
            near.redis.release()
            assert (await phone.next_message(20))["message_id"] == message_id


async def test_e1_a_meeting_goes_on_from_its_own_position(fleet: Fleet) -> None:
    """会议的位置是段号：一个节点与 Redis 断了，那里的人从记录里补，一段不少。"""
    near, far = fleet.api, fleet.add("api", meeting_refresh_s=1)
    alice, bob = await register(near.url, "alice"), await register(near.url, "bob")
    meeting_id = await hold(near.server, alice, bob)
    with fleet.mended():
        async with (
            live(near.server, alice, meeting_id) as speaking,
            live(far.server, bob, meeting_id) as listening,
        ):
            far.redis.refuse()
            for number in range(MESSAGES):
                await speaking.say(str(number))
            await speaking.segments(MESSAGES)
            far.redis.release()
            await speaking.say("last")
            heard = await listening.segments(MESSAGES + 1)
            assert [segment["seq"] for segment in heard] == list(range(1, MESSAGES + 2))
