"""评估告警的状态：谁在等着触发；Redis 不在时轮到谁评估。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import delete, or_, select, text, update

from .database import Repository
from .id_list import among
from .tables import alert_pending, alert_turn

_p: Final = alert_pending.c
_t: Final = alert_turn.c
_WAIT: Final = text(
    "INSERT INTO alert_pending (spot_key, rule, labels, since)"
    " VALUES (:spot_key, :rule, :labels, :since)"
    " ON CONFLICT (spot_key) DO UPDATE SET since = excluded.since"
)
_FIRST: Final = text(
    "INSERT INTO alert_turn (id, holder, lease_until) VALUES (1, '', 0) ON CONFLICT (id) DO NOTHING"
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
