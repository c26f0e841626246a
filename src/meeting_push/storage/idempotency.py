"""Idempotency-Key 与第一次的回答；与消息写在同一个事务里。"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Repository
from .rows import StoredResponse
from .sqlite import Statement
from .tables import idempotency_keys

_k: Final = idempotency_keys.c
_SAVE: Final = text(
    "INSERT INTO mp_idempotency_keys (sender_id, key, request_hash, response, created_at)"
    " VALUES (:sender_id, :key, :request_hash, :response, :created_at)"
    " ON CONFLICT (sender_id, key) DO NOTHING"
)
#: 一组键一条语句；散列是 BLOB，进不了 JSON，所以接成一串，各取自己的 32 字节。
_SQLITE_CLAIM: Final = (
    "INSERT INTO mp_idempotency_keys (sender_id, key, request_hash, response, created_at)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
    " substr(?2, key * 32 + 1, 32), json_extract(value, '$[2]'), json_extract(value, '$[3]')"
    " FROM json_each(?1) WHERE true ON CONFLICT (sender_id, key) DO NOTHING"
)
#: 一组键一条语句；``pg_claimed`` 的参数。
PG_CLAIM: Final = (
    "INSERT INTO mp_idempotency_keys (sender_id, key, request_hash, response, created_at)"
    " SELECT * FROM unnest(CAST(:senders AS bigint[]), CAST(:keys AS varchar[]),"
    " CAST(:hashes AS bytea[]), CAST(:responses AS text[]), CAST(:times AS bigint[]))"
    " ON CONFLICT (sender_id, key) DO NOTHING"
)
_MAX_ASKED: Final = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """一个请求要占的键，占下之后记着的回答（散列 32 字节）与时刻。"""

    sender_id: int
    key: str
    stored: StoredResponse
    at: int

    @property
    def place(self) -> tuple[int, str]:
        return self.sender_id, self.key


def sqlite_claim(claims: Sequence[Claim]) -> Statement:
    """占下各不相同的键，已有的跳过：改了几行就是占下几个。"""
    rows = [(c.sender_id, c.key, c.stored.response, c.at) for c in claims]
    hashes = b"".join(claim.stored.request_hash for claim in claims)
    return _SQLITE_CLAIM, (msgspec.json.encode(rows).decode(), hashes)


def pg_claimed(claims: Sequence[Claim]) -> dict[str, object]:
    """``PG_CLAIM`` 的参数。次序都一样，几个进程才不会互相死锁。"""
    ordered = sorted(claims, key=lambda each: each.place)
    return {
        "senders": [each.sender_id for each in ordered],
        "keys": [each.key for each in ordered],
        "hashes": [each.stored.request_hash for each in ordered],
        "responses": [each.stored.response for each in ordered],
        "times": [each.at for each in ordered],
    }


class IdempotencyRepository(Repository):
    async def answers(
        self, places: Sequence[tuple[int, str]]
    ) -> dict[tuple[int, str], StoredResponse]:
        """(sender_id, key) → 第一次的回答；没有的略去。"""
        found: dict[tuple[int, str], StoredResponse] = {}
        for start in range(0, len(places), _MAX_ASKED):
            statement = select(_k.sender_id, _k.key, _k.request_hash, _k.response).where(
                tuple_(_k.sender_id, _k.key).in_(places[start : start + _MAX_ASKED])
            )
            for sender_id, key, *stored in await self._database.rows(statement):
                found[sender_id, key] = StoredResponse(*stored)
        return found

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
