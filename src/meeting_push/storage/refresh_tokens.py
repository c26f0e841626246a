"""刷新令牌：每枚只用一次，一次登录下来的是一族。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .rows import RefreshToken
from .tables import refresh_tokens, users

_SELECT: Final = select(
    refresh_tokens.c.token_hash,
    refresh_tokens.c.family_id,
    refresh_tokens.c.user_id,
    refresh_tokens.c.expires_at,
    refresh_tokens.c.used_at,
    refresh_tokens.c.revoked_at,
)


class RefreshTokenRepository:
    """都在调用者的事务里。"""

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

    async def forget_used(self, connection: AsyncConnection, family_id: str, keep: int) -> None:
        """一族里用过的只留最近 ``keep`` 枚。"""
        t = refresh_tokens.c
        used = select(t.used_at).where(t.family_id == family_id, t.used_at.is_not(None))
        oldest = used.order_by(t.used_at.desc()).offset(keep - 1).limit(1).scalar_subquery()
        await connection.execute(
            delete(refresh_tokens).where(t.family_id == family_id, t.used_at < oldest)
        )

    async def keep_newest(self, connection: AsyncConnection, user_id: int, keep: int) -> None:
        """一个用户的只留到期最晚的 ``keep`` 枚。"""
        t = refresh_tokens.c
        his = select(t.expires_at).where(t.user_id == user_id)
        oldest = his.order_by(t.expires_at.desc()).offset(keep - 1).limit(1).scalar_subquery()
        await connection.execute(
            delete(refresh_tokens).where(t.user_id == user_id, t.expires_at < oldest)
        )

    async def lock(self, connection: AsyncConnection, user_id: int) -> None:
        """等正在为该用户加令牌的事务提交，并挡住后来的，直到本事务结束。

        吊销之前调用：``add`` 的外键在用户行上取 KEY SHARE，不等它，刚换出的那枚就漏网。
        """
        await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())

    async def revoke_family(self, connection: AsyncConnection, family_id: str, now: int) -> int:
        """吊销一族里还没吊销的，返回几枚；幂等。"""
        return await self._revoke(connection, refresh_tokens.c.family_id == family_id, now)

    async def revoke_user(self, connection: AsyncConnection, user_id: int, now: int) -> int:
        """吊销一个用户的全部，返回几枚；幂等。"""
        return await self._revoke(connection, refresh_tokens.c.user_id == user_id, now)

    async def _revoke(
        self, connection: AsyncConnection, whose: ColumnElement[bool], now: int
    ) -> int:
        statement = (
            update(refresh_tokens)
            .where(whose, refresh_tokens.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        return (await connection.execute(statement)).rowcount
