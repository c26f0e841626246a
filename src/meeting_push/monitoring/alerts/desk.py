"""人看告警、处理告警：清单、时间线、认领、静音、备注；Alertmanager 交来的也记在这里。"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from ulid import ULID

from ...clock import Clock, now_ms
from ...errors import NotFoundError
from ...storage.alerts import (
    AlertRepository,
    AlertRow,
    EventRow,
    NoteRow,
    NoticeRepository,
    ToldRow,
    Which,
)
from ..figures import OF_RULES
from .model import Alert, AlertSink, key_of, row_of, spot_of
from .rule import Rule

#: 别处交来的，一次写这么多条：约 2 ms。
TAKEN_AT_ONCE: Final = 50


class Listed(NamedTuple):
    """一条与它的备注。"""

    row: AlertRow
    notes: list[NoteRow]


Kind = Literal["fired", "resolved", "acknowledged", "silenced", "note", "notice", "action"]


class Event(NamedTuple):
    """时间线上的一件；没有的是 None。``state``：通知的是 ``firing``、``resolved``、``escalated``，
    自动处理的是结果；``ok``：通知到了、处理成了没有；``until``：静音到几时。"""

    at: int
    kind: Kind
    by: str | None = None
    channel: str | None = None
    state: str | None = None
    text: str | None = None
    ok: bool | None = None
    until: int | None = None


class Story(NamedTuple):
    """一条告警的始末；``figures``：值得看的曲线（见 ``monitoring/figures.py``）。"""

    listed: Listed
    timeline: list[Event]
    figures: tuple[str, ...]


class AlertDesk:
    """错误同 ``AlertRepository``。``rules`` 是此刻生效的。"""

    def __init__(
        self,
        records: AlertRepository,
        rules: Mapping[str, Rule],
        sink: AlertSink,
        notices: NoticeRepository,
        clock: Clock = now_ms,
    ) -> None:
        self.rules = rules
        self._records = records
        self._sink = sink
        self._notices = notices
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

    async def story(self, alert_id: str) -> Story:
        """:raises NotFoundError: 没有这一条"""
        listed = await self.get(alert_id)
        events = [
            *_of_row(listed.row),
            *(Event(note.at, "note", by=note.author, text=note.text) for note in listed.notes),
            *map(_of_notice, await self._notices.of(alert_id)),
            *map(_of_event, await self._records.events(alert_id)),
        ]
        # 同一毫秒的：触发在前，别的照原来的次序
        events.sort(key=attrgetter("at"))
        return Story(listed, events, OF_RULES.get(listed.row.rule, ()))

    async def silence(self, alert_id: str, by: str, for_s: int) -> Listed:
        """从此刻起不告诉人；同一处再触发的也是。0：不再静音。

        :raises NotFoundError: 没有这一条
        """
        await self.get(alert_id)
        now = self._clock()
        until = now + for_s * 1_000
        event = EventRow(str(ULID()), alert_id, now, "silenced", by, until=until)
        await self._records.silence(alert_id, until, event)
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

    async def take_in(self, firing: Iterator[Alert], resolved: Iterator[Alert]) -> None:
        """别处评估的：再来一遍无害，评估的进程随后告诉人。

        一段一段地造、一段一段地写：一千条一起就是别人等着循环与 SQLite 写锁的几十毫秒。
        """
        while piece := [row_of(alert) for alert in islice(firing, TAKEN_AT_ONCE)]:
            await self._records.record(piece)
        while keys := [_key(alert) for alert in islice(resolved, TAKEN_AT_ONCE)]:
            await self._records.resolve(keys, self._clock())


def _key(alert: Alert) -> str:
    return key_of(spot_of(alert.rule, alert.labels))


def _of_row(row: AlertRow) -> list[Event]:
    events = [Event(row.started_at, "fired", state=row.severity)]
    if row.acknowledged_at is not None:
        events.append(Event(row.acknowledged_at, "acknowledged", by=row.acknowledged_by))
    if row.resolved_at is not None:
        events.append(Event(row.resolved_at, "resolved"))
    return events


def _of_notice(row: ToldRow) -> Event:
    state = "escalated" if row.is_escalation else row.state
    return Event(
        row.at, "notice", channel=row.channel, state=state, text=row.reason or None, ok=row.told
    )


def _of_event(row: EventRow) -> Event:
    ok = None if row.state is None else row.state == "done"
    return Event(
        row.at,
        row.kind,
        row.by or None,
        state=row.state,
        text=row.text or None,
        ok=ok,
        until=row.until,
    )
