"""通知要问、要记的：说过什么，谁认领了、静了音。

可以不在（SQL 断了）：那时当作没有人认领，照样说；记录随后补上。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ...storage.alerts import AlertRow
from ...storage.notices import Standing, ToldRow


class NoticeRecords(Protocol):
    """由 ``storage.notices.NoticeRepository`` 实现。都可能抛 ``DatabaseUnavailableError``。"""

    async def note(self, rows: Sequence[ToldRow]) -> None:
        """写下；写两遍无害。抛出了的可能写了一部分。"""
        ...

    async def told(self, now_ms: int) -> list[ToldRow]:
        """还没有恢复的与最近恢复的告警，在哪些渠道上说到了。"""
        ...

    async def unsaid(self, now_ms: int) -> list[AlertRow]:
        """最近恢复了的告警，有渠道只听到过触发。"""
        ...

    async def standings(self, alert_ids: Sequence[str]) -> Mapping[str, Standing]:
        """此刻有没有人管；不认识的不在回答里。"""
        ...

    async def purge(self, now_ms: int) -> int:
        """忘掉很久以前的；返回几行。"""
        ...
