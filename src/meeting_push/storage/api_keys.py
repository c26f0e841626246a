"""API 密钥：名字、范围与散列；密钥本身从不在这里。"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, insert, select, update

from .database import Repository
from .rows import columns_of
from .tables import api_keys

_k: Final = api_keys.c


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``scopes`` 以逗号隔开；``digest`` 是密钥的 SHA-256；``revoked_at`` 为 None 是还能用的。"""

    id: int
    name: str
    scopes: str
    digest: bytes = field(repr=False)
    created_at: int
    revoked_at: int | None


_ALL: Final = select(*columns_of(ApiKey, api_keys)).order_by(_k.id)


class ApiKeyRepository(Repository):
    async def create(self, name: str, scopes: str, digest: bytes, now: int) -> int:
        """返回它的号；号从不重用。"""
        values = {"name": name, "scopes": scopes, "digest": digest, "created_at": now}
        async with self._database.transaction() as connection:
            made = await connection.execute(insert(api_keys).values(values).returning(_k.id))
            return int(made.scalar_one())

    async def all(self) -> list[ApiKey]:
        return [ApiKey(*row) for row in await self._database.rows(_ALL)]

    async def live(self) -> list[ApiKey]:
        """还能用的。"""
        statement = _ALL.where(_k.revoked_at.is_(None))
        return [ApiKey(*row) for row in await self._database.rows(statement)]

    async def count_live(self) -> int:
        statement = select(func.count()).select_from(api_keys).where(_k.revoked_at.is_(None))
        return int(await self._database.scalar(statement))

    async def revoke(self, key_id: int, now: int) -> bool:
        """从此不能再用；False：没有这个号，或早已吊销。"""
        statement = update(api_keys).where(_k.id == key_id, _k.revoked_at.is_(None))
        return await self._database.change(statement.values(revoked_at=now)) == 1
