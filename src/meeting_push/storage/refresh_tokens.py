"""刷新令牌：每枚只用一次，一次登录下来的是一族。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .rows import RefreshToken
from .tables import refresh_tokens

_SELECT: Final = select(
    refresh_tokens.c.token_hash,
    refresh_tokens.c.family_id,
    refresh_tokens.c.user_id,
    refresh_tokens.c.expires_at,
    refresh_tokens.c.used_at,
    refresh_tokens.c.revoked_at,
)


class RefreshTokenRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, connection: AsyncConnection, token: RefreshToken) -> None:
        await connection.execute(
            insert(refresh_tokens).values(
                token_hash=token.token_hash,
                family_id=token.family_id,
                user_id=token.user_id,
                expires_at=token.expires_at,
            )
        )

    async def find(self, connection: AsyncConnection, token_hash: bytes) -> RefreshToken | None:
        statement = _SELECT.where(refresh_tokens.c.token_hash == token_hash)
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else RefreshToken(*row)

    async def use(self, connection: AsyncConnection, token_hash: bytes, now: int) -> bool:
        """标为已用；False：它早已用过或被吊销。两个并发的调用只有一个得到 True。"""
        statement = (
            update(refresh_tokens)
            .where(
                refresh_tokens.c.token_hash == token_hash,
                refresh_tokens.c.used_at.is_(None),
                refresh_tokens.c.revoked_at.is_(None),
            )
            .values(used_at=now)
        )
        return (await connection.execute(statement)).rowcount == 1

    async def purge(self, connection: AsyncConnection, user_id: int, now: int) -> None:
        """删掉该用户已过期的；登录时顺手做，表的大小就有界。"""
        await connection.execute(
            delete(refresh_tokens).where(
                refresh_tokens.c.user_id == user_id, refresh_tokens.c.expires_at <= now
            )
        )

    async def revoke_family(self, family_id: str, now: int) -> int:
        """吊销一族里还没吊销的，返回几枚；幂等。"""
        statement = (
            update(refresh_tokens)
            .where(refresh_tokens.c.family_id == family_id, refresh_tokens.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        async with self._database.transaction() as connection:
            return (await connection.execute(statement)).rowcount
