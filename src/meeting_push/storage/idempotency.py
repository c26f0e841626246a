"""Idempotency-Key 与第一次的回答；与消息写在同一个事务里。"""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Repository
from .rows import StoredResponse
from .tables import idempotency_keys

_k: Final = idempotency_keys.c
_SAVE: Final = text(
    "INSERT INTO idempotency_keys (sender_id, key, request_hash, response, created_at)"
    " VALUES (:sender_id, :key, :request_hash, :response, :created_at)"
    " ON CONFLICT (sender_id, key) DO NOTHING"
)


class IdempotencyRepository(Repository):
    async def find(
        self, connection: AsyncConnection, sender_id: int, key: str
    ) -> StoredResponse | None:
        statement = select(_k.request_hash, _k.response).where(
            _k.sender_id == sender_id, _k.key == key
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else StoredResponse(*row)

    async def save(
        self,
        connection: AsyncConnection,
        sender_id: int,
        key: str,
        stored: StoredResponse,
        now: int,
    ) -> bool:
        """False：同一个键的另一个请求抢先提交了；什么也没写，再用 ``find`` 取它的回答。

        同一个键的两个并发事务里，后来的在这里等先来的提交或回滚，所以宜在写消息之前调用：
        那时还没有什么要撤销。
        """
        values = {
            "sender_id": sender_id,
            "key": key,
            "request_hash": stored.request_hash,
            "response": stored.response,
            "created_at": now,
        }
        return (await connection.execute(_SAVE, values)).rowcount == 1

    async def purge(self, before_ms: int, limit: int) -> int:
        """删掉 ``before_ms`` 之前的键中最早的，至多 ``limit`` 个；返回几个。"""
        old = select(_k.sender_id, _k.key).where(_k.created_at < before_ms)
        step = old.order_by(_k.created_at).limit(limit)
        statement = delete(idempotency_keys).where(tuple_(_k.sender_id, _k.key).in_(step))
        return await self._database.change(statement)
