"""通知要问、要记的：说过什么，谁认领了、静了音。

都可以不在（SQL 断了）：那时当作没有人认领，照样说；记录随后补上。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ...storage.notices import ToldRow


class NoticeRecords(Protocol):
    """说过什么。由 ``storage.notices.NoticeRepository`` 实现。"""

    async def note(self, rows: Sequence[ToldRow]) -> None:
        """写下；写两遍无害。

        :raises DatabaseUnavailableError: 可能写了一部分
        """
        ...

    async def told(self, now_ms: int) -> list[ToldRow]:
        """还没有恢复的与最近恢复的告警，在哪些渠道上说到了。"""
        ...

    async def purge(self, now_ms: int) -> int: ...


class Standing(Protocol):
    """一条告警此刻有没有人管；时刻是毫秒。"""

    @property
    def acknowledged_at(self) -> int | None: ...

    @property
    def silenced_until(self) -> int | None: ...


class Standings(Protocol):
    """由告警的记录实现。"""

    async def standings(self, alert_ids: Sequence[str]) -> Mapping[str, Standing]:
        """不认识的不在回答里。

        :raises DatabaseUnavailableError:
        """
        ...
