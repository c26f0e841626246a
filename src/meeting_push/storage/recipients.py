"""消息对每个收件人的状态；投递的统计与失败的清单；撤回。"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, case, func, literal, literal_column, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from ..model import DeliveryStatus, FailureCause, RecipientState, cause_of
from ..person_id import number_or_nobody
from .database import Repository
from .event_outbox import DELIVERED, FAILED, WITHDRAWN, EventOutbox, failed_columns, pg_told
from .rows import (
    DeliveryCounts,
    FailedDelivery,
    MessageHead,
    OutcomeRow,
    Page,
    RecentMessage,
    RecipientTimes,
    UndeliveredRow,
    columns_of,
)
from .tables import message_recipients, messages

_r: Final = message_recipients.c
_STATES: Final = select(*columns_of(RecipientState, message_recipients))
#: (message_id, user_id, sent_at, delivered_at)
DeliveredRow = tuple[str, int, int, int]

#: 一条语句、整批作一个参数，理由见 ``messages.py`` 的 ``_STATEMENT_MESSAGES``。
_SQLITE_DELIVERED: Final = (
    "UPDATE mp_message_recipients AS r SET status = 'delivered',"
    " sent_at = json_extract(v.value, '$[2]'), delivered_at = json_extract(v.value, '$[3]')"
    " FROM json_each(?) AS v WHERE r.message_id = json_extract(v.value, '$[0]')"
    " AND r.user_id = json_extract(v.value, '$[1]') AND r.status = 'pending'"
)
_PG_DELIVERED: Final = text(
    "UPDATE mp_message_recipients AS r"
    " SET status = 'delivered', sent_at = v.sent_at, delivered_at = v.delivered_at"
    " FROM unnest(CAST(:message_ids AS varchar[]), CAST(:user_ids AS bigint[]),"
    " CAST(:sent AS bigint[]), CAST(:delivered AS bigint[]))"
    " AS v (message_id, user_id, sent_at, delivered_at)"
    " WHERE r.message_id = v.message_id AND r.user_id = v.user_id AND r.status = 'pending'"
)
#: 迟到的确认胜过 failed 与 expired（DLV-4：客户端说收到了，就是收到了）。另成一句：常态不执行，
#: 而且碰了 failed_at、expired_at 就要动它们的索引。
_LATE: Final = (
    "'delivered',",
    "'delivered', failed_at = NULL, failure_reason = NULL, failure_cause = NULL,"
    " expired_at = NULL,",
)
_PENDING: Final = ("status = 'pending'", "status IN ('failed', 'expired')")
_SQLITE_LATE: Final = _SQLITE_DELIVERED.replace(*_LATE).replace(*_PENDING)
_PG_LATE: Final = text(_PG_DELIVERED.text.replace(*_LATE).replace(*_PENDING))
#: 有人要听的：连同出门的事件，还是一个来回。
_PG_DELIVERED_TOLD: Final = text(pg_told(_PG_DELIVERED.text))
_PG_LATE_TOLD: Final = text(pg_told(_PG_LATE.text))


class RecipientRepository(Repository):
    async def record_delivered(self, rows: Sequence[DeliveredRow]) -> int:
        """记为 delivered，返回改了几行；幂等。

        failed 与 expired 的也改：确认迟到了也是确认。已送达的、不存在的行被忽略。
        每批几百到几千行最快。
        """
        if not rows:
            return 0
        # 各节点都按同一次序取行锁，免得互相死锁。
        ordered = sorted(rows)
        if self._database.is_sqlite:
            listed = (msgspec.json.encode(ordered).decode(),)
            changed = await self._deliver_sqlite(_SQLITE_DELIVERED, listed, ordered)
            if changed < len(rows):
                changed += await self._deliver_sqlite(_SQLITE_LATE, listed, ordered)
            return changed
        message_ids, user_ids, sent, delivered = zip(*ordered, strict=True)
        columns = {
            "message_ids": message_ids,
            "user_ids": user_ids,
            "sent": sent,
            "delivered": delivered,
        }
        changed = await self._deliver(columns, ordered, late=False)
        if changed < len(ordered):
            changed += await self._deliver(columns, ordered, late=True)
        return changed

    async def _deliver_sqlite(
        self, statement: str, listed: tuple[str], rows: Sequence[DeliveredRow]
    ) -> int:
        events, is_late = self._database.events, statement is _SQLITE_LATE
        wanted = DELIVERED in events.wanted
        told = events.delivered(rows, rows[-1][3], late=is_late) if wanted else []
        statements = [*told, (statement, listed)]
        *_, changed = await self._database.write_sqlite(statements, patient=not is_late)
        if told:
            events.wake()
        return changed

    async def _deliver(
        self, columns: Mapping[str, object], rows: Sequence[DeliveredRow], *, late: bool
    ) -> int:
        events = self._database.events
        if DELIVERED not in events.wanted:
            return await self._database.change(_PG_LATE if late else _PG_DELIVERED, columns)
        told = {**columns, **events.told(DELIVERED, rows[-1][3])}
        async with self._database.alone() as connection:
            statement = _PG_LATE_TOLD if late else _PG_DELIVERED_TOLD
            changed = int((await connection.execute(statement, told)).scalar_one())
        events.wake()
        return changed

    async def counts(self, message_id: str) -> DeliveryCounts:
        """一条消息的收件人按状态计数；消息不存在则全为 0。"""
        statement = (
            select(_r.status, func.count()).where(_r.message_id == message_id).group_by(_r.status)
        )
        return DeliveryCounts.of(await self._database.rows(statement))

    async def page(
        self, message_id: str, cursor: int = 0, limit: int = 100
    ) -> Page[RecipientState, int]:
        """``user_id`` 大于 ``cursor`` 的前 ``limit`` 行。"""
        statement = (
            _STATES.where(_r.message_id == message_id, _r.user_id > cursor)
            .order_by(_r.user_id)
            .limit(limit + 1)
        )
        items = [_state(row) for row in await self._database.rows(statement)]
        return Page.of(items, limit, lambda state: number_or_nobody(state.user_id))


def first_id_at(ms: int) -> str:
    """那一毫秒里可能的最小的消息 id。"""
    return str(ULID.from_bytes(ms.to_bytes(6, "big") + bytes(10)))


def _state(row: Row[*tuple[Any, ...]]) -> RecipientState:
    return RecipientState(row.user_id, DeliveryStatus(row.status), *row[2:])


# ── 统计与清单：只读 ─────────────────────────────────────────────────────────

_m: Final = messages.c
_TO_ACK: Final = _r.delivered_at - _r.sent_at
_FAILURES: Final = select(
    _r.message_id,
    _r.user_id,
    _r.attempts,
    _r.failed_at,
    _r.failure_reason,
    _r.failure_cause,
    _m.sender_id,
    _m.message_type,
    _m.priority,
    _m.title,
    _m.expires_at,
).join_from(message_recipients, messages, _m.message_id == _r.message_id)
_RECENT: Final = select(
    _r.message_id,
    _m.title,
    _m.message_type,
    _m.priority,
    _m.created_at,
    _r.deliver_at,
    _r.status,
    _r.attempts,
    _r.sent_at,
    _r.delivered_at,
    _r.failed_at,
    _r.failure_reason,
    _r.read_at,
).join_from(message_recipients, messages, _m.message_id == _r.message_id)
_HEAD: Final = select(*columns_of(MessageHead, messages))
_TIMES: Final = select(*columns_of(RecipientTimes, message_recipients))
FailurePosition = tuple[int, str, int]
_POSITION: Final = tuple_(_r.failed_at, _r.message_id, _r.user_id)
#: 写在语句里：作参数，PostgreSQL 执行几遍之后换成不看值的计划，以为一半的行都是，起几个进程来读一页
#: （2 百万行时 0.3 → 15 ms）。
_IS_FAILED: Final = _r.status == literal_column(f"'{DeliveryStatus.FAILED}'")


class DeliveryReports(Repository):
    """只扫给定用户（或失败）的行：经收件箱索引与失败索引。"""

    async def outcomes(self, user_id: int, since_ms: int, bucket_ms: int) -> list[OutcomeRow]:
        """该用户 ``since_ms`` 起接受的消息，按（时段, 类型, 状态, 原因, 归哪一类）汇总。"""
        bucket = (_m.created_at - since_ms) // bucket_ms
        group = (bucket, _m.message_type, _r.status, _r.failure_reason, _r.failure_cause)
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
        return [_outcome(row) for row in await self._database.rows(statement)]

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
        found: int | None = await self._database.scalar(statement)
        return found

    async def head(self, message_id: str) -> MessageHead | None:
        row = await self._database.row(_HEAD.where(_m.message_id == message_id))
        return None if row is None else MessageHead(*row)

    async def times(
        self, message_id: str, cursor: int, limit: int, upto: int | None = None
    ) -> Page[RecipientTimes, int]:
        """``user_id`` 大于 ``cursor``、不大于 ``upto`` 的前 ``limit`` 个收件人。"""
        wanted = [_r.message_id == message_id, _r.user_id > cursor]
        if upto is not None:
            wanted.append(_r.user_id <= upto)
        statement = _TIMES.where(*wanted).order_by(_r.user_id).limit(limit + 1)
        items = [RecipientTimes(*row) for row in await self._database.rows(statement)]
        return Page.of(items, limit, lambda one: one.user_id)

    async def recent(self, user_id: int, limit: int) -> list[RecentMessage]:
        """发给该用户的最近 ``limit`` 条，新的在前；预约的也在其中。"""
        statement = _RECENT.where(_r.user_id == user_id).order_by(_r.message_id.desc()).limit(limit)
        return [RecentMessage(*row) for row in await self._database.rows(statement)]

    async def failures(
        self, before: FailurePosition | None, limit: int
    ) -> Page[FailedDelivery, FailurePosition]:
        """失败的收件人，新的在前；``before`` 是上一页最后一行的位置。"""
        statement = _FAILURES.where(_r.failed_at.is_not(None), _IS_FAILED)
        if before is not None:
            statement = statement.where(tuple_(*map(literal, before)) > _POSITION)
        statement = statement.order_by(
            _r.failed_at.desc(), _r.message_id.desc(), _r.user_id.desc()
        ).limit(limit + 1)
        items = [_failed(row) for row in await self._database.rows(statement)]
        return Page.of(items, limit, lambda one: (one.failed_at, one.message_id, one.user_id))

    async def undelivered(self, since_ms: int) -> list[UndeliveredRow]:
        """``since_ms`` 起失败的、过期的（没有原因），按（原因, 归哪一类）汇总。"""
        failed = (
            select(_r.failure_reason, _r.failure_cause, func.count())
            .where(_r.failed_at >= since_ms, _IS_FAILED)
            .group_by(_r.failure_reason, _r.failure_cause)
        )
        expired = (
            select(_r.failure_cause, func.count())
            .where(_r.expired_at >= since_ms, _r.status == DeliveryStatus.EXPIRED)
            .group_by(_r.failure_cause)
        )
        return [
            *(UndeliveredRow(r, _cause(c, r), n) for r, c, n in await self._database.rows(failed)),
            *(
                UndeliveredRow(None, _cause(c, None), n)
                for c, n in await self._database.rows(expired)
            ),
        ]


def _outcome(row: Row[*tuple[Any, ...]]) -> OutcomeRow:
    bucket, message_type, status, reason, cause, *sums = row
    known = _cause(cause, reason)
    return OutcomeRow(
        int(bucket), message_type, DeliveryStatus(status), reason, known, *map(int, sums)
    )


def _failed(row: Row[*tuple[Any, ...]]) -> FailedDelivery:
    message_id, user_id, attempts, failed_at, reason, cause, *rest = row
    return FailedDelivery(
        message_id, user_id, attempts, failed_at, reason, _cause(cause, reason), *rest
    )


_CAUSES: Final = frozenset(FailureCause)


def _cause(stored: str | None, reason: str | None) -> FailureCause | None:
    """记下的；旧程序没有记的、更新的程序记了而不认识的，由原因看出。"""
    if stored in _CAUSES:
        return FailureCause(stored)
    return None if reason is None else cause_of(reason)


# ── 撤回 ─────────────────────────────────────────────────────────────────────

CANCELLED: Final = "cancelled"
#: 收件人那里“永不到时”：收件箱与未读数本就按 ``deliver_at`` 取舍，撤回的从此看不见。
NEVER: Final = 2**62


async def cancel(
    connection: AsyncConnection, events: EventOutbox, message_id: str, *, now: int, due_after: int
) -> int | None:
    """在 ``connection`` 的事务里撤回，返回几个收件人；None = 不是预约的，或不晚于 ``due_after``
    就到时了。

    收件人变成 failed、原因 cancelled；消息当即过期，此后哪一站都不会再投递它。重复撤回无害。
    """
    row = (
        await connection.execute(
            select(_m.deliver_at).where(_m.message_id == message_id).with_for_update()
        )
    ).one_or_none()
    if row is None or row.deliver_at is None or row.deliver_at <= due_after:
        return None
    await connection.execute(
        update(messages)
        .where(_m.message_id == message_id, _m.expires_at > now)
        .values(expires_at=now, enqueued_at=now)
    )
    changed = await connection.execute(
        update(message_recipients)
        .where(_r.message_id == message_id, _r.status == DeliveryStatus.PENDING)
        .returning(*failed_columns())
        .values(
            status=DeliveryStatus.FAILED,
            failed_at=now,
            failure_reason=CANCELLED,
            failure_cause=cause_of(CANCELLED),
            deliver_at=NEVER,
        )
    )
    rows = [tuple(row) for row in changed]
    await events.add(connection, FAILED, rows, now)
    return len(rows)


class WithdrawalRepository(Repository):
    """撤回：消息的标题、正文、``data`` 从此没有了，没有确认过的收件人是 withdrawn。"""

    async def recipients(self, message_id: str) -> list[int]:
        """全部收件人；发给所有人的没有。"""
        statement = select(_r.user_id).where(_r.message_id == message_id).order_by(_r.user_id)
        return [row[0] for row in await self._database.rows(statement)]

    async def withdraw(self, message_id: str, now: int) -> list[int] | None:
        """返回从 pending 成为 withdrawn 的收件人；早已撤回的是 None，什么也没有改。原子。

        未读的从此不算未读；连同 ``message.withdrawn`` 在一个事务里。
        """
        async with self._database.transaction() as connection:
            emptied = {"title": "", "content": "", "data": None, "withdrawn_at": now}
            first = await connection.execute(
                update(messages)
                .where(_m.message_id == message_id, _m.withdrawn_at.is_(None))
                .values(**emptied, enqueued_at=func.coalesce(_m.enqueued_at, now))
                .returning(_m.sender_id)
            )
            if (row := first.one_or_none()) is None:
                return None
            users = await self._end(connection, message_id, now)
            delivered = await connection.execute(
                select(func.count()).where(
                    _r.message_id == message_id, _r.status == DeliveryStatus.DELIVERED
                )
            )
            told = (message_id, row.sender_id or None, now, len(users), delivered.scalar_one())
            await self._database.events.add(connection, WITHDRAWN, [told], now)
        self._database.events.wake()
        return users

    async def _end(self, connection: AsyncConnection, message_id: str, now: int) -> list[int]:
        here = _r.message_id == message_id
        ended = await connection.execute(
            update(message_recipients)
            .where(here, _r.status == DeliveryStatus.PENDING)
            .values(status=DeliveryStatus.WITHDRAWN)
            .returning(_r.user_id)
        )
        users = sorted(row[0] for row in ended)
        unread = update(message_recipients).where(here, _r.read_at.is_(None))
        await connection.execute(unread.values(read_at=now))
        return users
