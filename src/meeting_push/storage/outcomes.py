"""没有送达的那些结局：重试次数、失败、过期、重新入队。都不碰送达的热路。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, case, exists, select, true, tuple_, update

from ..model import DeliveryStatus, Origin
from .database import Database
from .id_list import among
from .id_pairs import Pair, among_pairs
from .tables import message_recipients, messages

_r: Final = message_recipients.c
_m: Final = messages.c


class Failed(NamedTuple):
    """一个失败的收件人，连同再投递它所需的；``receipt_to`` 是要回执的发送者。"""

    message_id: str
    user_id: int
    priority: int
    expires_at: int
    receipt_to: int | None


class Expirable(NamedTuple):
    """一条过了有效期、还没清理的消息。"""

    message_id: str
    expires_at: int
    recipient_count: int
    receipt_to: int | None


_RECEIPT_TO: Final = case((_m.receipt, _m.sender_id), else_=None)
_FAILED: Final = select(
    _r.message_id, _r.user_id, _m.priority, _m.expires_at, _RECEIPT_TO
).join_from(message_recipients, messages, _m.message_id == _r.message_id)


class OutcomeRepository:
    """各方法都幂等；错误同 ``Database.transaction``。"""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ── 重试与失败 ───────────────────────────────────────────────────────────

    async def record_attempts(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """(message_id, user_id, 重试次数)；次数只增不减。"""
        by_attempt: defaultdict[int, list[Pair]] = defaultdict(list)
        for message_id, user_id, attempts in rows:
            by_attempt[attempts].append((message_id, user_id))
        if not rows:
            return
        async with self._database.transaction() as connection:
            for attempts, pairs in sorted(by_attempt.items()):
                await connection.execute(
                    update(message_recipients)
                    .where(among_pairs(self._database, pairs), _r.attempts < attempts)
                    .values(attempts=attempts)
                )

    async def record_failed(self, pairs: Sequence[Pair], reason: str, now: int) -> list[Failed]:
        """把还是 pending 的记为 failed；返回其中此刻是 failed 的，含早先就失败的。"""
        if not pairs:
            return []
        here = among_pairs(self._database, pairs)
        async with self._database.transaction() as connection:
            await connection.execute(
                update(message_recipients)
                .where(here, _r.status == DeliveryStatus.PENDING)
                .values(status=DeliveryStatus.FAILED, failed_at=now, failure_reason=reason[:200])
            )
            rows = await connection.execute(_FAILED.where(here, _r.status == DeliveryStatus.FAILED))
            return [Failed(*row) for row in rows]

    async def unwanted(self, message_ids: Sequence[str]) -> list[str]:
        """这些里谁也不等、谁也没收到的（全部失败、过期了）：别的设备也不会从日志里要它。"""
        if not message_ids:
            return []
        wanted = exists().where(
            _r.message_id == _m.message_id,
            _r.status.in_([DeliveryStatus.PENDING, DeliveryStatus.DELIVERED]),
        )
        statement = select(_m.message_id).where(
            among(self._database, _m.message_id, message_ids), ~wanted
        )
        async with self._database.connect() as connection:
            return list(await connection.scalars(statement))

    async def origins(self, message_ids: Sequence[str]) -> dict[str, Origin]:
        """各条是谁发的、多急；没有记录的略去。"""
        if not message_ids:
            return {}
        statement = select(_m.message_id, _m.sender_id, _m.priority).where(
            among(self._database, _m.message_id, message_ids)
        )
        async with self._database.connect() as connection:
            rows = await connection.execute(statement)
            return {message_id: Origin(sender, priority) for message_id, sender, priority in rows}

    async def requeueable(self, pairs: Sequence[Pair]) -> list[Failed]:
        """这些里失败的与仍 pending 的，含已过期的。"""
        if not pairs:
            return []
        waiting = _r.status.in_([DeliveryStatus.FAILED, DeliveryStatus.PENDING])
        statement = _FAILED.where(among_pairs(self._database, pairs), waiting)
        async with self._database.connect() as connection:
            return [Failed(*row) for row in await connection.execute(statement)]

    async def find_failed(self, message_id: str, user_id: int) -> Failed | None:
        statement = _FAILED.where(
            _r.message_id == message_id,
            _r.user_id == user_id,
            _r.status == DeliveryStatus.FAILED,
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else Failed(*row)

    async def reset_failed(self, pairs: Sequence[Pair]) -> None:
        """失败的回到 pending，次数归零。"""
        statement = (
            update(message_recipients)
            .where(among_pairs(self._database, pairs), _r.status == DeliveryStatus.FAILED)
            .values(status=DeliveryStatus.PENDING, attempts=0, failed_at=None, failure_reason=None)
        )
        async with self._database.transaction() as connection:
            await connection.execute(statement)

    # ── 过期 ────────────────────────────────────────────────────────────────

    async def expirable(
        self, before_ms: int, limit: int, after: Expirable | None = None
    ) -> list[Expirable]:
        """``before_ms`` 之前过期、还没清理的消息，最早的在前；包括还没入队与预约的。

        ``after``：上一页的最后一条，从它之后看起。
        """
        position = tuple_(_m.expires_at, _m.message_id)
        later = true() if after is None else position > (after.expires_at, after.message_id)
        statement = (
            select(_m.message_id, _m.expires_at, _m.recipient_count, _RECEIPT_TO)
            .where(_m.expired_at.is_(None), _m.expires_at < before_ms, later)
            .order_by(_m.expires_at, _m.message_id)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [Expirable(*row) for row in await connection.execute(statement)]

    async def record_expired(self, message_ids: Sequence[str]) -> list[Pair]:
        """这些消息的 pending 收件人记为 expired，返回刚刚过期的。"""
        statement = (
            update(message_recipients)
            .where(
                among(self._database, _r.message_id, message_ids),
                _r.status == DeliveryStatus.PENDING,
            )
            .values(status=DeliveryStatus.EXPIRED)
            .returning(_r.message_id, _r.user_id)
        )
        async with self._database.transaction() as connection:
            return [_pair(row) for row in await connection.execute(statement)]

    async def expired_pairs(self, message_ids: Sequence[str]) -> list[Pair]:
        """这些消息的全部 expired 收件人。"""
        statement = select(_r.message_id, _r.user_id).where(
            among(self._database, _r.message_id, message_ids),
            _r.status == DeliveryStatus.EXPIRED,
        )
        async with self._database.connect() as connection:
            return [_pair(row) for row in await connection.execute(statement)]

    async def mark_expired(self, message_ids: Sequence[str], now: int) -> None:
        """这些消息清理完了，不再出现在 ``expirable`` 里。"""
        statement = (
            update(messages)
            .where(among(self._database, _m.message_id, message_ids))
            .values(expired_at=now)
        )
        async with self._database.transaction() as connection:
            await connection.execute(statement)


def _pair(row: Row[*tuple[Any, ...]]) -> Pair:
    return row.message_id, row.user_id
