"""触发过的告警：记下、恢复、有没有告诉过通知那一边；对它做的：认领、静音、备注、自动处理。

评估的状态：谁在等着触发；Redis 不在时轮到谁评估。通知过谁：一条告警在一个渠道上，触发与恢复各一行，
连同失败的与为什么。
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Select, case, delete, exists, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from .database import Database, Repository
from .id_list import among
from .operations_tables import (
    alert_events,
    alert_notes,
    alert_notices,
    alert_pending,
    alert_turn,
    alerts,
)
from .rows import Page

_a: Final = alerts.c
_n: Final = alert_notes.c
_e: Final = alert_events.c
#: 时间线上至多这么多件自动处理与静音：最近的。
MAX_EVENTS: Final = 500
#: 同一处的前一条还静音着，新的也静音。没有写明冲突在哪：同一个 id 再写一遍（上次结果不定）也无事。
#: ``same``、``begun`` 与 ``spot_key``、``started_at`` 相同：PostgreSQL 不许一个参数有两种类型。
_FIRE: Final = text(
    "INSERT INTO mp_alerts (alert_id, rule, labels, severity, summary_zh, summary_en, value,"
    " threshold, runbook, started_at, resolved_at, spot_key, firing_key, told, silenced_until)"
    " VALUES (:alert_id, :rule, :labels, :severity, :summary_zh, :summary_en, :value,"
    " :threshold, :runbook, :started_at, :resolved_at, :spot_key, :firing_key, :told,"
    " (SELECT max(silenced_until) FROM mp_alerts"
    " WHERE spot_key = :same AND silenced_until > :begun))"
    " ON CONFLICT DO NOTHING"
)

_NOTE_EVENT: Final = text(
    'INSERT INTO mp_alert_events (event_id, alert_id, at, kind, "by", text, state, until)'
    " VALUES (:event_id, :alert_id, :at, :kind, :by, :text, :state, :until)"
    " ON CONFLICT DO NOTHING"
)

Which = Literal["firing", "resolved", "all"]


class Told(IntEnum):
    """告诉过通知那一边什么。"""

    NOTHING = 0
    FIRING = 1
    RESOLVED = 2


class AlertRow(NamedTuple):
    """``labels`` 是 JSON；``spot_key`` 是规则与标签的散列。"""

    alert_id: str
    rule: str
    labels: str
    severity: str
    summary_zh: str
    summary_en: str
    value: float
    threshold: float
    runbook: str
    started_at: int
    spot_key: str
    resolved_at: int | None = None
    told: int = Told.NOTHING
    acknowledged_by: str | None = None
    acknowledged_at: int | None = None
    silenced_until: int | None = None


class NoteRow(NamedTuple):
    note_id: str
    alert_id: str
    author: str
    at: int
    text: str


class EventRow(NamedTuple):
    """``kind``：``silenced``（``until`` 是静音到几时）、``action``（``state`` 是结果）。"""

    event_id: str
    alert_id: str
    at: int
    kind: Literal["silenced", "action"]
    by: str
    text: str = ""
    state: str | None = None
    until: int | None = None


_SELECT: Final = select(*(_a[name] for name in AlertRow._fields))


class AlertRepository(Repository):
    """错误同 ``Database.transaction``。"""

    # ── 评估的一边 ───────────────────────────────────────────────────────────

    async def fire(self, rows: Sequence[AlertRow]) -> list[bool]:
        """记下几条，一个事务；False：同一处已有一条在触发（或这一条早已记下），没有写它。

        写入时已经恢复的（``resolved_at``）只是补记，不与别的冲突。
        """
        async with self._database.transaction() as connection:
            return [(await connection.execute(_FIRE, _firing(row))).rowcount == 1 for row in rows]

    async def record(self, rows: Sequence[AlertRow]) -> None:
        """同 ``fire``，不问写了哪几条：一趟；一百条约占写锁 4 ms。"""
        if rows:
            async with self._database.transaction() as connection:
                await connection.execute(_FIRE, [_firing(row) for row in rows])

    async def resolve(self, spot_keys: Sequence[str], now: int) -> None:
        """这几处在触发的恢复了；没有在触发的无事。没告诉过触发的，恢复也不必告诉。"""
        statement = (
            update(alerts)
            .where(among(self._database, _a.firing_key, spot_keys))
            .values(
                resolved_at=now,
                firing_key=None,
                told=case((_a.told == Told.NOTHING, Told.RESOLVED), else_=_a.told),
            )
        )
        await self._database.change(statement)

    async def open(self) -> list[AlertRow]:
        """在触发的，与恢复了还没有告诉的。"""
        return await self._read(_SELECT.where(text("told < 2")).order_by(_a.alert_id))

    async def mark_told(self, alert_ids: Sequence[str], told: Told) -> None:
        statement = update(alerts).where(
            among(self._database, _a.alert_id, alert_ids), _a.told < told
        )
        await self._database.change(statement.values(told=told))

    # ── 人的一边 ─────────────────────────────────────────────────────────────

    async def page(self, which: Which, cursor: str | None, limit: int) -> Page[AlertRow, str]:
        """新的在前。"""
        statement = _SELECT.order_by(_a.alert_id.desc()).limit(limit + 1)
        if which != "all":
            is_firing = _a.resolved_at.is_(None)
            statement = statement.where(is_firing if which == "firing" else ~is_firing)
        if cursor is not None:
            statement = statement.where(_a.alert_id < cursor)
        return Page.of(await self._read(statement), limit, lambda row: row.alert_id)

    async def get(self, alert_id: str) -> AlertRow | None:
        row = await self._database.row(_SELECT.where(_a.alert_id == alert_id))
        return None if row is None else AlertRow(*row)

    async def standings(self, alert_ids: Sequence[str]) -> dict[str, AlertRow]:
        """通知的一边来问：谁认领了、静音到几时；不认识的不在其中。"""
        statement = _SELECT.where(among(self._database, _a.alert_id, alert_ids))
        return {row.alert_id: row for row in await self._read(statement)}

    async def notes(self, alert_ids: Sequence[str]) -> dict[str, list[NoteRow]]:
        """早的在前；没有备注的不在其中。"""
        statement = (
            select(*(_n[name] for name in NoteRow._fields))
            .where(among(self._database, _n.alert_id, alert_ids))
            .order_by(_n.note_id)
        )
        found: dict[str, list[NoteRow]] = {}
        for row in await self._database.rows(statement):
            found.setdefault(row.alert_id, []).append(NoteRow(*row))
        return found

    async def acknowledge(self, alert_id: str, by: str, now: int) -> None:
        """先认领的算数。"""
        statement = update(alerts).where(_a.alert_id == alert_id, _a.acknowledged_at.is_(None))
        await self._database.change(statement.values(acknowledged_by=by, acknowledged_at=now))

    async def silence(self, alert_id: str, until: int, event: EventRow | None = None) -> None:
        """``event``：谁静的，与它同一个事务。"""
        statement = update(alerts).where(_a.alert_id == alert_id)
        async with self._database.transaction() as connection:
            await connection.execute(statement.values(silenced_until=until))
            if event is not None:
                await connection.execute(insert(alert_events), event._asdict())

    async def periods(self, rules: Sequence[str], since: int) -> list[tuple[int, int | None]]:
        """``since`` 之后还触发着的这几条规则：从何时到何时，None 即此刻。"""
        statement = select(_a.started_at, _a.resolved_at).where(
            among(self._database, _a.rule, rules),
            or_(_a.resolved_at.is_(None), _a.resolved_at > since),
        )
        return [(row[0], row[1]) for row in await self._database.rows(statement)]

    async def add_events(self, events: Sequence[EventRow]) -> None:
        """记下几件，一个事务；上次结果不定的再写一遍无事。"""
        values = [event._asdict() for event in events]
        async with self._database.transaction() as connection:
            await connection.execute(_NOTE_EVENT, values)

    async def events(self, alert_id: str) -> list[EventRow]:
        """最近的至多 ``MAX_EVENTS`` 件，早的在前。"""
        statement = (
            select(*(_e[name] for name in EventRow._fields))
            .where(_e.alert_id == alert_id)
            .order_by(_e.event_id.desc())
            .limit(MAX_EVENTS)
        )
        return [EventRow(*row) for row in reversed(await self._database.rows(statement))]

    async def add_note(self, note: NoteRow) -> None:
        await self._database.change(insert(alert_notes), note._asdict())

    async def _read(self, statement: Select[*tuple[Any, ...]]) -> list[AlertRow]:
        return [AlertRow(*row) for row in await self._database.rows(statement)]


def _firing(row: AlertRow) -> dict[str, object]:
    return {
        **row._asdict(),
        "same": row.spot_key,
        "begun": row.started_at,
        "firing_key": row.spot_key if row.resolved_at is None else None,
    }


# ── 评估的状态 ───────────────────────────────────────────────────────────────

_p: Final = alert_pending.c
_t: Final = alert_turn.c
_WAIT: Final = text(
    "INSERT INTO mp_alert_pending (spot_key, rule, labels, since)"
    " VALUES (:spot_key, :rule, :labels, :since)"
    " ON CONFLICT (spot_key) DO UPDATE SET since = excluded.since"
)
_FIRST: Final = text(
    "INSERT INTO mp_alert_turn (id, holder, lease_until) VALUES (1, '', 0)"
    " ON CONFLICT (id) DO NOTHING"
)


class PendingRow(NamedTuple):
    """越了线、还不到 ``for_s`` 的一处；``labels`` 是 JSON。"""

    spot_key: str
    rule: str
    labels: str
    since: int


class AlertStateRepository(Repository):
    """错误同 ``Database.transaction``。"""

    async def pending(self) -> list[PendingRow]:
        statement = select(*(_p[name] for name in PendingRow._fields))
        return [PendingRow(*row) for row in await self._database.rows(statement)]

    async def keep(self, begun: Sequence[PendingRow], ended: Sequence[str]) -> None:
        """开始等的与不再等的，一个事务。"""
        async with self._database.transaction() as connection:
            if ended:
                gone = delete(alert_pending).where(among(self._database, _p.spot_key, ended))
                await connection.execute(gone)
            for row in begun:
                await connection.execute(_WAIT, row._asdict())

    async def lease(self, holder: str, now: int, lease_ms: int) -> bool:
        """轮到 ``holder``，或本就在他手里。到期时刻远得不合理的（钟跳过）不算数。"""
        free = or_(_t.holder == holder, _t.lease_until < now, _t.lease_until > now + 2 * lease_ms)
        taken = update(alert_turn).where(_t.id == 1, free)
        async with self._database.transaction() as connection:
            await connection.execute(_FIRST)
            statement = taken.values(holder=holder, lease_until=now + lease_ms)
            return (await connection.execute(statement)).rowcount == 1

    async def release(self, holder: str) -> None:
        """不等租期过去；不在他手里则无事。"""
        statement = update(alert_turn).where(_t.holder == holder).values(holder="", lease_until=0)
        await self._database.change(statement)


# ── 通知过谁 ─────────────────────────────────────────────────────────────────

_told: Final = alert_notices.c
#: 记着这么久，给告警页的时间线。
KEEP_MS: Final = 90 * 24 * 3_600_000
#: 恢复了的，重新接手时只认这么久之内的。
RECENT_MS: Final = 24 * 3_600_000
_BATCH: Final = 500
_KEYS: Final = ("alert_id", "channel", "state", "is_escalation")


class ToldRow(NamedTuple):
    """``reason`` 空即说到了；说到了而有收件人被拒绝的，``told`` 为真，``reason`` 说是谁。"""

    alert_id: str
    channel: str
    state: str
    is_escalation: bool
    told: bool
    reason: str
    at: int


class Standing(NamedTuple):
    """一条告警此刻有没有人管。"""

    acknowledged_at: int | None = None
    silenced_until: int | None = None


class NoticeRepository(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    async def note(self, rows: Sequence[ToldRow]) -> None:
        """写下；同一条再写是改（失败之后成了）。写两遍无害。

        :raises DatabaseUnavailableError: 一行也没有写，或写了几批
        """
        for start in range(0, len(rows), _BATCH):
            # 同一句里不能改同一行两次：留最后的
            batch = {row[:4]: row._asdict() for row in rows[start : start + _BATCH]}
            statement = self._insert(alert_notices).values(list(batch.values()))
            changed = {name: statement.excluded[name] for name in ("told", "reason", "at")}
            upsert = statement.on_conflict_do_update(index_elements=list(_KEYS), set_=changed)
            await self._database.change(upsert)

    async def told(self, now_ms: int) -> list[ToldRow]:
        """说到了的：还没有恢复的告警，与最近恢复的。"""
        resolved = select(_told.alert_id).where(
            _told.state == "resolved", _told.told, _told.at < now_ms - RECENT_MS
        )
        statement = select(alert_notices).where(_told.told, _told.alert_id.not_in(resolved))
        return await self._rows(statement)

    async def unsaid(self, now_ms: int) -> list[AlertRow]:
        """最近恢复了、有渠道说过触发而没有说过恢复的：说的那个进程死在了中间。"""
        later = alert_notices.alias()
        said = exists().where(
            later.c.alert_id == _told.alert_id,
            later.c.channel == _told.channel,
            later.c.state == "resolved",
            later.c.told,
        )
        heard = exists().where(
            _told.alert_id == _a.alert_id, _told.state == "firing", _told.told, ~said
        )
        columns = (_a[name] for name in AlertRow._fields)
        statement = select(*columns).where(_a.resolved_at > now_ms - RECENT_MS, heard)
        return [AlertRow(*row) for row in await self._database.rows(statement)]

    async def standings(self, alert_ids: Sequence[str]) -> dict[str, Standing]:
        """不认识的不在回答里。"""
        statement = select(_a.alert_id, _a.acknowledged_at, _a.silenced_until).where(
            among(self._database, _a.alert_id, alert_ids)
        )
        rows = await self._database.rows(statement)
        return {row[0]: Standing(*row[1:]) for row in rows}

    async def of(self, alert_id: str) -> list[ToldRow]:
        """一条告警的通知，早的在前。"""
        statement = select(alert_notices).where(_told.alert_id == alert_id)
        return await self._rows(statement.order_by(_told.at, _told.channel))

    async def purge(self, now_ms: int) -> int:
        """忘掉很久以前的，连同告警上发生过的事；返回几行。"""
        before = now_ms - KEEP_MS
        events = await self._database.change(delete(alert_events).where(_e.at < before))
        return events + await self._database.change(delete(alert_notices).where(_told.at < before))

    async def _rows(self, statement: Any) -> list[ToldRow]:
        found = await self._database.rows(statement)
        return [ToldRow(*(row._mapping[name] for name in ToldRow._fields)) for row in found]
