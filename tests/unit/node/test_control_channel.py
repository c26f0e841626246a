"""控制频道：命令到每个节点，坏的计数后丢弃，运维通知照常放行。"""

from __future__ import annotations

import json

import pytest

from meeting_push.contracts import ChannelHandler
from meeting_push.node.control_channel import ControlChannel, ControlCommand, Kick
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.subscriber import Subscriber
from tests.support.eventually import eventually

KICK = Kick(user_id=7, connection_id="c1")


class Blink(ControlCommand, frozen=True, kw_only=True, tag="blink"):
    times: int = 1


def channel(redis: RedisService) -> tuple[ControlChannel, list[ControlCommand]]:
    one, got = ControlChannel(redis), list[ControlCommand]()
    one.on(Kick, got.append)
    return one, got


def _handler(control: ControlChannel) -> ChannelHandler:
    def on_message(_channel: bytes, payload: bytes) -> None:
        assert control.take(payload)

    return on_message


async def test_a_command_reaches_every_node(redis: RedisService) -> None:
    (one, got), (_, got_there) = channel(redis), channel(redis)
    other, there = ControlChannel(redis), list[ControlCommand]()
    other.on(Kick, there.append)
    subscribers = [Subscriber(redis.address, redis.keys) for _ in range(2)]
    for control, subscriber in zip((one, other), subscribers, strict=True):
        await subscriber.start(_handler(control), lambda: None)
        await subscriber.subscribe_channel(redis.keys.system_channel)
    assert await one.publish(KICK) == 2
    await eventually(lambda: got and there)
    assert (got, there, got_there) == ([KICK], [KICK], [])
    for subscriber in subscribers:
        await subscriber.close()


async def test_the_envelope_on_the_wire(redis: RedisService) -> None:
    one, got = channel(redis)
    text = '{"type":"control","command":"kick","user_id":7,"connection_id":"c1"}'
    assert one.take(text.encode())
    assert got == [KICK]


async def test_each_command_goes_to_its_own_handler(redis: RedisService) -> None:
    one, got = channel(redis)
    blinks: list[Blink] = []
    one.on(Blink, blinks.append)
    assert one.take(b'{"type":"control","command":"blink","times":2}')
    assert (got, blinks) == ([], [Blink(times=2)])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command": 7},
        {"command": None},
        {"command": "kick"},
        {"command": "kick", "user_id": "7", "connection_id": "c1"},
    ],
)
async def test_a_malformed_command_is_counted_and_never_forwarded(
    redis: RedisService, fields: dict[str, object]
) -> None:
    one, got = channel(redis)
    assert one.take(json.dumps({"type": "control", **fields}).encode())
    assert (got, one.statistics().malformed) == ([], 1)


async def test_an_unknown_command_is_counted_and_never_forwarded(redis: RedisService) -> None:
    one, got = channel(redis)
    assert one.take(b'{"type":"control","command":"from_the_future"}')
    assert (got, one.statistics().unknown) == ([], 1)


@pytest.mark.parametrize(
    "payload",
    [b'{"type":"notice","code":"x","reconnect_after_ms":1}', b"junk", b"[]", b"{}", b"\xff"],
)
async def test_what_is_no_command_is_left_to_the_others(
    redis: RedisService, payload: bytes
) -> None:
    one, got = channel(redis)
    assert not one.take(payload)
    assert got == []
