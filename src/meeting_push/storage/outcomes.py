"""没有送达的：重试次数、失败、过期、重新入队，对账者从记录里找出的。都不碰送达的热路。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Row, case, exists, func, or_, select, true, tuple_, update

from ..mailbox_model import Origin
from ..model import DeliveryStatus, FailureCause
from .database import Repository
from .event_outbox import EXPIRED, FAILED, failed_columns
from .id_list import Recipient, among, among_pairs
from .recipients import first_id_at
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
    enqueued_at: int | None


_RECEIPT_TO: Final = case((_m.receipt, _m.sender_id), else_=None)
_FAILED: Final = select(
    _r.message_id, _r.user_id, _m.priority, _m.expires_at, _RECEIPT_TO
).join_from(message_recipients, messages, _m.message_id == _r.message_id)


class OutcomeRepository(Repository):
    """各方法都幂等；错误同 ``Database.transaction``。"""

    # ── 重试与失败 ───────────────────────────────────────────────────────────

    async def record_attempts(self, rows: Sequence[tuple[str, int, int]]) -> None:
        """(message_id, user_id, 重试次数)；次数只增不减。"""
        by_attempt: defaultdict[int, list[Recipient]] = defaultdict(list)
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

    async def record_failed(
        self, pairs: Sequence[Recipient], reason: str, now: int, cause: FailureCause | None = None
    ) -> list[Failed]:
        """把还是 pending 的记为 failed；返回其中此刻是 failed 的，含早先就失败的。"""
        if not pairs:
            return []
        here = among_pairs(self._database, pairs)
        async with self._database.transaction() as connection:
            fresh = await connection.execute(
                update(message_recipients)
                .where(here, _r.status == DeliveryStatus.PENDING)
                .values(
                    status=DeliveryStatus.FAILED,
                    failed_at=now,
                    failure_reason=reason[:200],
                    failure_cause=cause,
                )
                .returning(*failed_columns())
            )
            await self._database.events.add(connection, FAILED, [*map(tuple, fresh)], now)
            rows = await connection.execute(_FAILED.where(here, _r.status == DeliveryStatus.FAILED))
            failed = [Failed(*row) for row in rows]
        self._database.events.wake()
        return failed

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
        return [row.message_id for row in await self._database.rows(statement)]

    async def origins(self, message_ids: Sequence[str]) -> dict[str, Origin]:
        """各条是谁发的、多急；没有记录的略去。"""
        if not message_ids:
            return {}
        statement = select(_m.message_id, _m.sender_id, _m.priority).where(
            among(self._database, _m.message_id, message_ids)
        )
        rows = await self._database.rows(statement)
        return {message_id: Origin(sender, priority) for message_id, sender, priority in rows}

    async def requeueable(self, pairs: Sequence[Recipient]) -> list[Failed]:
        """这些里失败的与仍 pending 的，含已过期的。"""
        if not pairs:
            return []
        waiting = _r.status.in_([DeliveryStatus.FAILED, DeliveryStatus.PENDING])
        statement = _FAILED.where(among_pairs(self._database, pairs), waiting)
        return [Failed(*row) for row in await self._database.rows(statement)]

    async def find_failed(self, message_id: str, user_id: int) -> Failed | None:
        statement = _FAILED.where(
            _r.message_id == message_id,
            _r.user_id == user_id,
            _r.status == DeliveryStatus.FAILED,
        )
        row = await self._database.row(statement)
        return None if row is None else Failed(*row)

    async def reset_failed(self, pairs: Sequence[Recipient]) -> None:
        """失败的回到 pending，次数归零。"""
        statement = (
            update(message_recipients)
            .where(among_pairs(self._database, pairs), _r.status == DeliveryStatus.FAILED)
            .values(
                status=DeliveryStatus.PENDING,
                attempts=0,
                failed_at=None,
                failure_reason=None,
                failure_cause=None,
            )
        )
        await self._database.change(statement)

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
            select(_m.message_id, _m.expires_at, _m.recipient_count, _RECEIPT_TO, _m.enqueued_at)
            .where(_m.expired_at.is_(None), _m.expires_at < before_ms, later)
            .order_by(_m.expires_at, _m.message_id)
            .limit(limit)
        )
        return [Expirable(*row) for row in await self._database.rows(statement)]

    async def record_expired(
        self,
        message_ids: Sequence[str],
        now: int,
        causes: Mapping[FailureCause, Sequence[Recipient]] | None = None,
    ) -> dict[FailureCause | None, list[Recipient]]:
        """这些消息的 pending 收件人记为 expired，返回刚刚过期的，各归哪一类。"""
        whole = among(self._database, _r.message_id, message_ids)
        parts = [(c, among_pairs(self._database, pairs)) for c, pairs in (causes or {}).items()]
        async with self._database.transaction() as connection:
            # 最后一句：问的时候还不是 pending 的，不知道归哪一类
            expired = {
                cause: [
                    _pair(row)
                    for row in await connection.execute(
                        update(message_recipients)
                        .where(these, _r.status == DeliveryStatus.PENDING)
                        .values(status=DeliveryStatus.EXPIRED, expired_at=now, failure_cause=cause)
                        .returning(_r.message_id, _r.user_id)
                    )
                ]
                for cause, these in [*parts, (None, whole)]
            }
            told = [(*pair, now, cause) for cause, pairs in expired.items() for pair in pairs]
            await self._database.events.add(connection, EXPIRED, told, now)
        self._database.events.wake()
        return expired

    async def pairs_of(self, message_ids: Sequence[str], status: DeliveryStatus) -> list[Recipient]:
        """这些消息的收件人里，此刻是 ``status`` 的。"""
        statement = select(_r.message_id, _r.user_id).where(
            among(self._database, _r.message_id, message_ids), _r.status == status
        )
        return [_pair(row) for row in await self._database.rows(statement)]

    async def mark_expired(self, message_ids: Sequence[str], now: int) -> None:
        """这些消息清理完了，不再出现在 ``expirable`` 里。"""
        statement = (
            update(messages)
            .where(among(self._database, _m.message_id, message_ids))
            .values(expired_at=now)
        )
        await self._database.change(statement)


def _pair(row: Row[*tuple[Any, ...]]) -> Recipient:
    return row.message_id, row.user_id


# ── 对账 ─────────────────────────────────────────────────────────────────────

_PENDING: Final = _r.status == DeliveryStatus.PENDING


class UndeliveredRepository(Repository):
    async def page_end(self, after: str, limit: int) -> str | None:
        """``after`` 之后第 ``limit`` 条消息（不足则最后一条）；没有了则 None。

        不论过期与否：只走主键，一页的代价不随没有用的旧消息变大（E3）。
        """
        page = (
            select(_m.message_id)
            .where(_m.message_id > after)
            .order_by(_m.message_id)
            .limit(limit)
            .subquery()
        )
        found: str | None = await self._database.scalar(select(func.max(page.c.message_id)))
        return found

    async def reopen(self, after: str, upto: str, now: int) -> int:
        """把一页里还有 pending 收件人的放回发件箱，返回几条。幂等。"""
        # 收件人那边也写明范围：不然数据库可能为这一页扫过整张表
        still = exists().where(
            _r.message_id == _m.message_id, _r.message_id > after, _r.message_id <= upto, _PENDING
        )
        return await self._reopen(
            _m.message_id > after, _m.message_id <= upto, _m.expires_at > now, still
        )

    async def reopen_messages(self, message_ids: Sequence[str], now: int) -> int:
        """同上，指明的几条。"""
        wanted = among(self._database, _m.message_id, message_ids)
        return await self._reopen(wanted, _m.expires_at > now)

    async def finished(self, after: str, upto: str, since: int) -> list[Recipient]:
        """一页里 ``since`` 之后才有结局（送达、失败、过期）的。"""
        ended = func.coalesce(_r.delivered_at, _r.failed_at, since)
        statement = select(_r.message_id, _r.user_id).where(
            _r.message_id > after,
            _r.message_id <= upto,
            _r.status != DeliveryStatus.PENDING,
            ended >= since,
        )
        return [_pair(row) for row in await self._database.rows(statement)]

    async def waiting(
        self, after: Recipient, upto: str, enqueued: tuple[int, int], now: int, limit: int
    ) -> list[Recipient]:
        """``after`` 之后到消息 ``upto`` 为止，早该投递而仍 pending 的前 ``limit`` 行。

        ``enqueued``：只看入队时刻在这个区间的。
        """
        earliest, latest = enqueued
        statement = (
            select(_r.message_id, _r.user_id)
            .join(messages, _m.message_id == _r.message_id)
            .where(
                tuple_(_r.message_id, _r.user_id) > after,
                _r.message_id >= after[0],
                _r.message_id <= upto,
                _m.message_id >= after[0],
                _m.message_id <= upto,
                _m.enqueued_at.between(earliest, latest),
                _m.expires_at > now,
                or_(_m.deliver_at.is_(None), _m.deliver_at < latest),
                _PENDING,
            )
            .order_by(_r.message_id, _r.user_id)
            .limit(limit)
        )
        return [_pair(row) for row in await self._database.rows(statement)]

    async def _reopen(self, *conditions: ColumnElement[bool]) -> int:
        # 别人锁着的跳过，不等：它们成了掉队的，下一遍再看（SQLite 没有行锁）
        free = (
            select(_m.message_id)
            .where(_m.enqueued_at.is_not(None), *conditions)
            .with_for_update(skip_locked=True)
        )
        statement = update(messages).where(_m.message_id.in_(free)).values(enqueued_at=None)
        return await self._database.change(statement)


def oldest_possible(now: int, horizon_ms: int) -> str:
    """``horizon_ms`` 之前接受的都已过期：从这里开始翻页，不必扫过更早的。"""
    return first_id_at(max(0, now - horizon_ms))
