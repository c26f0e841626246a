"""告警通知过谁：一条告警在一个渠道上，触发与恢复各一行，连同失败的与为什么。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite

from .alerts import AlertRow
from .database import Database, Repository
from .id_list import among
from .operations_tables import alert_events, alert_notices, alerts

_n: Final = alert_notices.c
_e: Final = alert_events.c
_a: Final = alerts.c
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
        resolved = select(_n.alert_id).where(
            _n.state == "resolved", _n.told, _n.at < now_ms - RECENT_MS
        )
        statement = select(alert_notices).where(_n.told, _n.alert_id.not_in(resolved))
        return await self._rows(statement)

    async def unsaid(self, now_ms: int) -> list[AlertRow]:
        """最近恢复了、有渠道说过触发而没有说过恢复的：说的那个进程死在了中间。"""
        later = alert_notices.alias()
        said = exists().where(
            later.c.alert_id == _n.alert_id,
            later.c.channel == _n.channel,
            later.c.state == "resolved",
            later.c.told,
        )
        heard = exists().where(_n.alert_id == _a.alert_id, _n.state == "firing", _n.told, ~said)
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
        statement = select(alert_notices).where(_n.alert_id == alert_id)
        return await self._rows(statement.order_by(_n.at, _n.channel))

    async def purge(self, now_ms: int) -> int:
        """忘掉很久以前的，连同告警上发生过的事；返回几行。"""
        before = now_ms - KEEP_MS
        events = await self._database.change(delete(alert_events).where(_e.at < before))
        return events + await self._database.change(delete(alert_notices).where(_n.at < before))

    async def _rows(self, statement: Any) -> list[ToldRow]:
        found = await self._database.rows(statement)
        return [ToldRow(*(row._mapping[name] for name in ToldRow._fields)) for row in found]
