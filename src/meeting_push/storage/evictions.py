"""把没有送达就被放弃的收件人记为 failed。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text

from ..clock import Clock, now_ms
from .database import Database

_SQLITE: Final = (
    "UPDATE message_recipients SET status = 'failed', failed_at = ?3, failure_reason = ?4"
    " WHERE message_id = ?1 AND user_id = ?2 AND status = 'pending'"
)
_PG: Final = text(
    "UPDATE message_recipients AS r"
    " SET status = 'failed', failed_at = :failed_at, failure_reason = :reason"
    " FROM unnest(CAST(:message_ids AS varchar[]), CAST(:user_ids AS bigint[]))"
    " AS v (message_id, user_id)"
    " WHERE r.message_id = v.message_id AND r.user_id = v.user_id AND r.status = 'pending'"
)


class EvictionRepository:
    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock

    async def record_failed(self, pairs: Sequence[tuple[str, int]], reason: str) -> None:
        """(message_id, user_id) 里还是 pending 的记为 failed；一个事务，幂等。"""
        if not pairs:
            return
        # 各节点都按同一次序取行锁，免得互相死锁
        ordered, now = sorted(pairs), self._clock()
        async with self._database.transaction() as connection:
            if self._database.is_sqlite:
                rows = [(*pair, now, reason) for pair in ordered]
                await connection.exec_driver_sql(_SQLITE, rows)
                return
            message_ids, user_ids = zip(*ordered, strict=True)
            await connection.execute(
                _PG,
                {
                    "message_ids": message_ids,
                    "user_ids": user_ids,
                    "failed_at": now,
                    "reason": reason,
                },
            )
