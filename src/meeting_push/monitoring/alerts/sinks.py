"""触发了、恢复了，告诉谁。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .model import Alert


class AlertSink(Protocol):
    """通知的一边。"""

    async def told(self, alerts: Sequence[Alert]) -> None:
        """几条刚触发或刚恢复的；同一条的同一件事可能再来（至少一次）。

        很快返回，不等渠道；暂时不行的抛 ``MeetingPushError``，下一轮再来。
        """

    async def test(self, channel: str) -> None:
        """向一个渠道发一份标明是试的通知。

        :raises NotFoundError: 没有这个渠道
        """
