"""没有自己一页的渠道：写日志的，由 Apprise 发的。"""

from __future__ import annotations

import json

import pytest

from meeting_push.errors import ChannelFailedError
from meeting_push.monitoring.notices.courier import LogLines, Others, sender_of
from meeting_push.monitoring.notices.text import NoticeWriter
from tests.support.notice_receivers import Reply, http_receiver
from tests.support.notices import alert, channel, notice, resolved


async def test_each_alert_is_a_line(log: list[str]) -> None:
    lines = LogLines(channel("log://"), NoticeWriter())
    await lines.send(notice(alert("a"), resolved("b", "node_lost")))
    first, second = log
    assert first.startswith("alert_firing")
    assert "redis_slow" in first
    assert second.startswith("alert_resolved")
    assert "node_lost" in second


async def test_an_address_of_apprise_is_told_by_apprise() -> None:
    async with http_receiver() as there:
        sender = sender_of(channel(f"json://{there.host}/hook"), NoticeWriter())
        assert isinstance(sender, Others)
        assert await sender.send(notice()) == ()
        body = json.loads(there.requests[0].body)
    assert body["title"] == "触发 firing: redis_slow"
    assert "Redis 往返慢" in body["message"]
    assert body["type"] == "warning"


async def test_what_apprise_could_not_send_failed() -> None:
    async with http_receiver(lambda _: Reply(b"", 500)) as there:
        with pytest.raises(ChannelFailedError, match="Apprise"):
            await Others(channel(f"json://{there.host}"), NoticeWriter()).send(notice())
