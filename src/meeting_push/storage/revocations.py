"""吊销的记录：Redis 丢了也在，各节点由它得知自己错过的。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..model import Revocation
from .database import Database
from .tables import revocation_version, revocations

_NEXT_VERSION: Final = (
    update(revocation_version)
    .values(version=revocation_version.c.version + 1)
    .returning(revocation_version.c.version)
)
# 各节点的钟略有先后：再吊销一次不得把时刻往回拨。
_UPSERT: Final = text(
    "INSERT INTO revocations"
    " (user_id, session_id, token_id, revoked_before, expires_at, version)"
    " VALUES (:user_id, :session_id, :token_id, :revoked_before, :expires_at, :version)"
    " ON CONFLICT (user_id, session_id, token_id) DO UPDATE SET"
    " revoked_before = CASE WHEN excluded.revoked_before > revocations.revoked_before"
    " THEN excluded.revoked_before ELSE revocations.revoked_before END,"
    " expires_at = excluded.expires_at, version = excluded.version"
)
_SELECT: Final = select(
    revocations.c.user_id,
    revocations.c.revoked_before,
    revocations.c.expires_at,
    revocations.c.session_id,
    revocations.c.token_id,
)


#: 不必再记的再留一天：删早了，作废的令牌又能用；我们的钟快一点也不要紧（E4）。
KEPT_MS: Final = 86_400_000


class RevocationRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, connection: AsyncConnection, revocation: Revocation, now: int) -> None:
        """记下一次吊销；顺手删掉不必再记的。同时的吊销在版本那一行上排队，直到提交。"""
        version = await connection.scalar(_NEXT_VERSION)
        over = revocations.c.expires_at <= now - KEPT_MS
        await connection.execute(delete(revocations).where(over))
        values = {
            "user_id": revocation.user_id,
            "session_id": revocation.session_id or "",
            "token_id": revocation.token_id or "",
            "revoked_before": revocation.before,
            "expires_at": revocation.expires_at,
            "version": version,
        }
        await connection.execute(_UPSERT, values)

    async def since(self, version: int, now: int) -> tuple[int, list[Revocation]]:
        """``version`` 之后的（0：全部），连同此刻的版本；不必再记的略去。

        没有新的就只有一次按主键的查询。版本倒退（库从备份恢复、主从切换丢了提交）则给出全部。
        """
        async with self._database.connect() as connection:
            newest = int(await connection.scalar(select(revocation_version.c.version)) or 0)
            if newest == version:
                return newest, []
            statement = _SELECT.where(
                revocations.c.version > (version if version < newest else 0),
                or_(revocations.c.expires_at.is_(None), revocations.c.expires_at > now),
            )
            rows = (await connection.execute(statement)).all()
        return newest, [
            Revocation(user_id, before, expires_at, session_id or None, token_id or None)
            for user_id, before, expires_at, session_id, token_id in rows
        ]
