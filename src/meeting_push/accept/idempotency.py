"""Idempotency-Key：带同一个键再来一遍，得到第一次的回答，什么也不写。

幂等键只留一天：表不随请求无休止地长（A17）。
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from ..errors import IdempotencyConflictError
from ..logs import RepeatedWarning
from ..model import Draft
from ..storage.database import Database, SqlConnection
from ..storage.idempotency import IdempotencyRepository
from ..storage.rows import StoredResponse
from ..supervision import periodically


class IdempotentStore:
    """键与内容在同一个事务里，崩溃不会留下半个。"""

    def __init__(self, database: Database, keys: IdempotencyRepository) -> None:
        self._database = database
        self._keys = keys

    async def once(
        self,
        sender_id: int,
        key: str,
        mine: StoredResponse,
        now: int,
        write: Callable[[SqlConnection], Awaitable[None]],
    ) -> str | None:
        """``write`` 并提交，返回 None；键已被占则什么都不写，返回当时的回答。

        输给并发的同键请求时，再来一遍就能读到它的回答。

        :raises IdempotencyConflictError: 同一个键曾带来不同的内容
        """
        while True:
            async with self._database.transaction() as connection:
                earlier = await self._keys.find(connection, sender_id, key)
                if earlier is not None:
                    return answer_of(earlier, mine)
                if await self._keys.save(connection, sender_id, key, mine, now):
                    await write(connection)
                    return None


_FIELDS: Final = Draft.__struct_fields__


def described(draft: Draft) -> dict[str, object]:
    """草稿里决定“是不是同一个请求”的一切；``data`` 里键的次序不算。"""
    found = {name: getattr(draft, name) for name in _FIELDS}
    if draft.sender is None:  # 没有这一项的版本记下的散列，照样对得上
        del found["sender"]
    if isinstance(draft.data, msgspec.Raw):
        found["data"] = msgspec.json.decode(draft.data)
    return found


def stored_response(request: object, response: object, kind: bytes = b"") -> StoredResponse:
    """``kind``：别处的同一个键是另一个请求。"""
    encoded = kind + msgspec.json.encode(request, order="deterministic")
    return StoredResponse(hashlib.sha256(encoded).digest(), msgspec.json.encode(response).decode())


def answer_of(earlier: StoredResponse, mine: StoredResponse) -> str:
    """:raises IdempotencyConflictError: 同一个键曾带来不同的内容"""
    if earlier.request_hash != mine.request_hash:
        raise IdempotencyConflictError("this Idempotency-Key was used with another body")
    return earlier.response


#: 客户端一天之内的重试得到第一次的回答。
KEPT_MS: Final = 86_400_000
EVERY_S: Final = 60.0
#: 一步删这么多，步与步之间让别的写者先走。
STEP: Final = 1_000
_PAUSE_S: Final = 0.05


class IdempotencyPurge:
    """``run`` 须由监督者一直运行；几个进程都在做也无害。

    ``agreed``：各家的钟一致的此刻。早删一小时，那一小时的重试就成了两份（E4）。
    """

    def __init__(self, keys: IdempotencyRepository, agreed: Callable[[], Awaitable[int]]) -> None:
        self._keys = keys
        self._agreed = agreed
        self._deferred = RepeatedWarning("idempotency_purge_deferred")

    async def run(self) -> None:
        await periodically(self.purge, partial(asyncio.sleep, EVERY_S), self._deferred)

    async def purge(self) -> int:
        """删掉此刻该删的全部，返回几个。

        :raises ClockDisagreesError: 我们的钟与别家对不上；什么也没有删
        """
        before, total = await self._agreed() - KEPT_MS, 0
        while deleted := await self._keys.purge(before, STEP):
            total += deleted
            await asyncio.sleep(_PAUSE_S)
        return total
