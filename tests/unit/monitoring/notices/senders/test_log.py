"""日志渠道：每条告警一行。"""

from __future__ import annotations

from meeting_push.monitoring.notices.senders.log import LogLines
from meeting_push.monitoring.notices.text import NoticeWriter
from tests.support.notices import alert, channel, notice, resolved


async def test_each_alert_is_a_line(log: list[str]) -> None:
    lines = LogLines(channel("log://"), NoticeWriter())
    await lines.send(notice(alert("a"), resolved("b", "node_lost")))
    first, second = log
    assert first.startswith("alert_firing")
    assert "redis_slow" in first
    assert second.startswith("alert_resolved")
    assert "node_lost" in second
