"""投递的统计与失败的清单：只读。"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row, case, func, literal, select, tuple_

from ..model import DeliveryStatus
from .database import Database
from .recipients import first_id_at
from .rows import FailedDelivery, FailurePage, OutcomeRow
from .tables import message_recipients, messages

_r: Final = message_recipients.c
_m: Final = messages.c
_TO_ACK: Final = _r.delivered_at - _r.sent_at
_FAILURES: Final = select(
    _r.message_id,
    _r.user_id,
    _r.attempts,
    _r.failed_at,
    _r.failure_reason,
    _m.sender_id,
    _m.message_type,
    _m.priority,
    _m.title,
    _m.expires_at,
).join_from(message_recipients, messages, _m.message_id == _r.message_id)
_POSITION: Final = tuple_(_r.failed_at, _r.message_id, _r.user_id)


class DeliveryReports:
    """只扫给定用户（或失败）的行：经收件箱索引与失败索引。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def outcomes(self, user_id: int, since_ms: int, bucket_ms: int) -> list[OutcomeRow]:
        """该用户 ``since_ms`` 起接受的消息，按（时段, 类型, 状态, 原因）汇总。"""
        bucket = (_m.created_at - since_ms) // bucket_ms
        group = (bucket, _m.message_type, _r.status, _r.failure_reason)
        statement = (
            select(
                *group,
                func.count(),
                func.sum(case((_r.attempts > 0, 1), else_=0)),
                func.coalesce(func.sum(_TO_ACK), 0),
            )
            .join_from(message_recipients, messages, _m.message_id == _r.message_id)
            .where(_r.user_id == user_id, _r.message_id >= first_id_at(since_ms))
            .group_by(*group)
        )
        async with self._database.connect() as connection:
            return [_outcome(row) for row in await connection.execute(statement)]

    async def ack_time_at(self, user_id: int, since_ms: int, rank: int) -> int | None:
        """从推到确认的毫秒数里第 ``rank`` 小的（从 0 数）；没有那么多则 None。"""
        statement = (
            select(_TO_ACK)
            .where(
                _r.user_id == user_id,
                _r.message_id >= first_id_at(since_ms),
                _r.status == DeliveryStatus.DELIVERED,
                _TO_ACK.is_not(None),
            )
            .order_by(_TO_ACK)
            .offset(rank)
            .limit(1)
        )
        async with self._database.connect() as connection:
            return await connection.scalar(statement)

    async def failures(self, before: tuple[int, str, int] | None, limit: int) -> FailurePage:
        """失败的收件人，新的在前；``before`` 是上一页最后一行的位置。"""
        statement = _FAILURES.where(_r.failed_at.is_not(None), _r.status == DeliveryStatus.FAILED)
        if before is not None:
            statement = statement.where(tuple_(*map(literal, before)) > _POSITION)
        statement = statement.order_by(
            _r.failed_at.desc(), _r.message_id.desc(), _r.user_id.desc()
        ).limit(limit + 1)
        async with self._database.connect() as connection:
            items = [_failure(row) for row in await connection.execute(statement)]
        more = len(items) > limit
        last = items[limit - 1] if more else None
        return FailurePage(
            items[:limit],
            None if last is None else (last.failed_at, last.message_id, last.user_id),
        )


def _outcome(row: Row[*tuple[Any, ...]]) -> OutcomeRow:
    bucket, message_type, status, reason, *sums = row
    return OutcomeRow(int(bucket), message_type, DeliveryStatus(status), reason, *map(int, sums))


def _failure(row: Row[*tuple[Any, ...]]) -> FailedDelivery:
    return FailedDelivery(*row)
