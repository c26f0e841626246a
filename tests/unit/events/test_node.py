"""一个完整的节点里：``push.on`` 与一个 URL。"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meeting_push import ConfigurationError, MeetingPush, PushEvent, Sender, load_settings
from tests.support.event_receivers import SECRET, verified
from tests.support.notice_receivers import http_receiver
from tests.support.redis_server import RedisServer


def node(tmp_path: Path, redis: RedisServer, prefix: str, **settings: object) -> MeetingPush:
    return MeetingPush(
        load_settings(data_dir=tmp_path, redis_url=redis.url, key_prefix=prefix, **settings)
    )


async def test_a_handler_and_a_url_are_told_and_one_that_fails_harms_neither(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    told = asyncio.Queue[PushEvent]()

    async def handler(event: PushEvent) -> None:
        await told.put(event)

    def broken(_: PushEvent) -> None:
        raise RuntimeError

    async with http_receiver() as receiver:
        hooks = tmp_path / "hooks.yaml"
        hooks.write_text(f"- {{url: 'http://{receiver.host}/', secret: {SECRET}}}\n")
        push = node(tmp_path, embedded_redis_server, key_prefix, webhooks=hooks)
        push.on("message.accepted", broken)
        push.on("message.accepted", handler)
        await push.start()
        try:
            sent = await push.messages.send_message(Sender(1, "a"), 2, "t", "c")
            async with asyncio.timeout(30):
                event = await told.get()
            await receiver.arrived(1, 30)
        finally:
            await push.drain()
            await push.stop()
    assert event.data["message_id"] == sent.message_id
    [request] = receiver.requests
    assert verified(request.body, request.headers)[0]["id"] == event.id


async def test_no_such_event_and_too_late_are_said(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    push = node(tmp_path, embedded_redis_server, key_prefix)
    with pytest.raises(ConfigurationError, match="no such event"):
        push.on("message.lost", print)
    await push.start()
    try:
        with pytest.raises(ConfigurationError, match="before the start"):
            push.on("message.read", print)
    finally:
        await push.drain()
        await push.stop()
