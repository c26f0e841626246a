"""人看告警、处理告警：清单、认领、静音、备注；Alertmanager 交来的也记在这里。"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ulid import ULID

from ...clock import Clock, now_ms
from ...errors import NotFoundError
from ...storage.alerts import AlertRepository, AlertRow, NoteRow, Which
from .model import Alert, AlertSink, key_of, row_of, spot_of
from .rule import Rule


class Listed(NamedTuple):
    """一条与它的备注。"""

    row: AlertRow
    notes: list[NoteRow]


class AlertDesk:
    """错误同 ``AlertRepository``。``rules`` 是此刻生效的。"""

    def __init__(
        self,
        records: AlertRepository,
        rules: Mapping[str, Rule],
        sink: AlertSink,
        clock: Clock = now_ms,
    ) -> None:
        self.rules = rules
        self._records = records
        self._sink = sink
        self._clock = clock

    async def page(
        self, which: Which, cursor: str | None, limit: int
    ) -> tuple[list[Listed], str | None]:
        """新的在前；第二项是下一页的 ``cursor``，None 即到底。"""
        page = await self._records.page(which, cursor, limit)
        notes = await self._records.notes([row.alert_id for row in page.items])
        return [Listed(row, notes.get(row.alert_id, [])) for row in page.items], page.next_cursor

    async def get(self, alert_id: str) -> Listed:
        """:raises NotFoundError: 没有这一条"""
        row = await self._records.get(alert_id)
        if row is None:
            raise NotFoundError("no such alert")
        notes = await self._records.notes([alert_id])
        return Listed(row, notes.get(alert_id, []))

    async def acknowledge(self, alert_id: str, by: str, text: str | None = None) -> Listed:
        """先认领的算数；话总是记下。

        :raises NotFoundError: 没有这一条
        """
        await self.get(alert_id)
        await self._records.acknowledge(alert_id, by, self._clock())
        if text:
            await self._note(alert_id, by, text)
        return await self.get(alert_id)

    async def silence(self, alert_id: str, for_s: int) -> Listed:
        """从此刻起不告诉人；同一处再触发的也是。0：不再静音。

        :raises NotFoundError: 没有这一条
        """
        await self.get(alert_id)
        await self._records.silence(alert_id, self._clock() + for_s * 1_000)
        return await self.get(alert_id)

    async def note(self, alert_id: str, by: str, text: str) -> Listed:
        """:raises NotFoundError: 没有这一条"""
        await self.get(alert_id)
        await self._note(alert_id, by, text)
        return await self.get(alert_id)

    async def _note(self, alert_id: str, by: str, text: str) -> None:
        await self._records.add_note(NoteRow(str(ULID()), alert_id, by, self._clock(), text))

    async def test(self, channel: str) -> None:
        """:raises NotFoundError: 没有这个渠道"""
        await self._sink.test(channel)

    async def take_in(self, firing: Sequence[Alert], resolved: Sequence[Alert]) -> None:
        """别处评估的：再来一遍无害，评估的进程随后告诉人。"""
        await self._records.fire([row_of(alert) for alert in firing])
        keys = [key_of(spot_of(alert.rule, alert.labels)) for alert in resolved]
        await self._records.resolve(keys, self._clock())
