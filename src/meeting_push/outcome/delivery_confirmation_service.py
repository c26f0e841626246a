"""送达确认：ack 成批写入，先记录，后移出信箱。

次序是承诺的一部分（DLV-1）：① Redis 状态 ② SQL 记录 ③ 移出信箱。死在任何两步之间，
消息仍在信箱里，重连时以同一个 ``message_id`` 再来一次；绝不会“移出了却没有记录”。

投递统计：把按组汇总的行算成率。

回执：把一个收件人的结局告诉要求回执的发送者。瞬时的：状态已记录，丢了还可以查询。
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, NamedTuple, TypeVar

from ..clock import Clock, now_ms
from ..contracts import UserChannel
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import InvalidInputError, MeetingPushError, NotFoundError
from ..logs import RepeatedWarning
from ..model import (
    Ack,
    AckOutcome,
    DeliveryStatus,
    FailureCause,
    MessageKind,
    RecipientState,
)
from ..people.people import INTEGERS, People
from ..protocol import frames
from ..redis.link import Command
from ..redis.outcomes import Outcomes
from ..storage.recipients import DeliveredRow, DeliveryReports, RecipientRepository
from ..storage.rows import (
    DeliveryCounts,
    FailedDelivery,
    OutcomeRow,
    Page,
    UndeliveredRow,
)
from ..supervision import Aside
from .batch_writer import BatchWriter

#: 一个事务至多这么多行：四分之一的话，积压时每秒写下的少一半。
BATCH_ROWS: Final = 2_000
#: 一批等 SQL 时另一批在用 Redis：积压时记下的快四成。
LANES: Final = 2
#: 忙着时两批至少隔这么久，也至少隔 ``ack_flush_ms`` 的这么多倍：一批（Redis 两次、SQL 一次，各要
#: 醒来一趟）的代价多半与几行无关。
PACE_S: Final = 0.05
PACED: Final = 5
DAY_S: Final = 86_400


class DeliveryConfirmationService:
    """实现 ``contracts.AckSink``，并回答“这条消息到哪了”。"""

    def __init__(
        self,
        *,
        outcomes: Outcomes,
        recipients: RecipientRepository,
        reports: DeliveryReports,
        mailbox: OfflineMessageQueue,
        receipts: Receipts,
        flush_ms: float,
        aside: Aside,
        clock: Clock = now_ms,
    ) -> None:
        self._outcomes = outcomes
        self._recipients = recipients
        self._reports = reports
        self._mailbox = mailbox
        self._receipts = receipts
        self._clock = clock
        self._aside = aside
        self._writer = BatchWriter[DeliveredRow](
            self._write,
            deferred=RepeatedWarning("ack_flush_deferred"),
            batch_rows=BATCH_ROWS,
            aside=self._aside,
            flush_s=flush_ms / 1000,
            lanes=LANES,
            pace_s=max(PACE_S, flush_ms / 1000 * PACED) if flush_ms else 0,
        )
        #: 本进程记下的送达，只增。
        self.delivered = 0
        #: 同上，按种类（Redis 里第一次确认的）。
        self.confirmed: Counter[MessageKind] = Counter()
        #: 写入循环；关机时没写完的，信箱里还有。
        self.run, self.drain = self._writer.run, self._writer.drain
        #: 已记进 Redis、等 SQL 也记下才发的回执（见 confirm.lua 的返回值）
        self._unsent: dict[tuple[str, int], DueReceipt] = {}
        #: 谁也不再等的正文，等下一次移出信箱带上（``ConfirmedChunk.leaving``）。
        self._leaving: list[Command] = []

    # ── 登记 ────────────────────────────────────────────────────────────────

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        self._writer.add([(a.message_id, user_id, a.sent_at, a.acked_at) for a in acks])

    async def confirm(
        self, user_id: int, message_ids: Sequence[str], now: int | None = None
    ) -> AckOutcome:
        now = self._clock() if now is None else now
        held, acked, unknown = await self._mailbox.contains(user_id, message_ids)
        # 早已不在信箱、却不是因为确认：失败、过期、被挤出之后才来的确认，仍然算数。确认总是先记进
        # 状态再移出信箱，所以没有状态的就是没有确认过；再记一次也无害
        late = await self._outcomes.unconfirmed(user_id, acked)
        # 不在本连接推过：推送时刻不得而知，以确认时刻为上界
        self.record(user_id, [Ack(i, seq=0, sent_at=now, acked_at=now) for i in (*held, *late)])
        return AckOutcome(len(held) + len(acked), tuple(unknown))

    # ── 写入 ────────────────────────────────────────────────────────────────

    async def _write(self, batch: Sequence[DeliveredRow]) -> None:
        batch = sorted(batch)  # 同一条消息的相邻：Redis 里合成一次
        await self._record_in_redis(batch)
        self.delivered += await self._recipients.record_delivered(batch)
        leaving, self._leaving = self._leaving, []
        await self._mailbox.remove(_by_user(batch), leaving)
        if self._unsent:
            due = [self._unsent.pop(row[:2], None) for row in batch]
            await self._receipts.send(filter(None, due), DeliveryStatus.DELIVERED)

    async def _record_in_redis(self, batch: Sequence[DeliveredRow]) -> None:
        """要回执的记在 ``_unsent``：再来一遍，Redis 不会再说它们是第一次。

        状态坏了的跳过：SQL 照记，照样移出信箱。
        """
        async for receipts, spoiled, kinds, leaving in self._outcomes.confirm(batch):
            self.confirmed.update(kinds)
            self._leaving += leaving
            if receipts:
                each = _receipts(receipts)
                self._unsent.update(((one.message_id, one.user_id), one) for one in each)
            if spoiled:
                self._aside.note([row[:2] for row in spoiled], "delivery status spoiled")

    # ── 查询 ────────────────────────────────────────────────────────────────

    async def get_message_delivery_status(
        self, message_id: str, *, cursor: int = 0, limit: int = 100
    ) -> tuple[DeliveryCounts, Page[RecipientState, int]]:
        """各状态的人数与一页收件人（user_id 升序，``cursor`` 之后）。

        :raises NotFoundError: 没有这条消息
        """
        counts = await self._recipients.counts(message_id)
        if not counts.total:
            raise NotFoundError("no such message")
        return counts, await self._recipients.page(message_id, cursor, limit)

    async def get_user_delivery_statistics(
        self, user_id: int, window_s: int = DAY_S
    ) -> DeliveryStatistics:
        """最近 ``window_s`` 秒里接受的、发给该用户的消息：送达率、耗时、重试率、失败原因。"""
        return await user_statistics(self._reports, user_id, window_s, self._clock())

    async def get_undelivered_statistics(self, window_s: int = DAY_S) -> UndeliveredStatistics:
        """最近 ``window_s`` 秒里失败的、过期的，各类、各原因几条。"""
        return await undelivered_statistics(self._reports, window_s, self._clock())

    async def get_delivery_failure_messages(
        self, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[FailedDelivery], str | None]:
        """失败的投递，新的在前；第二项是下一页的 ``cursor``，None 即到底。

        :raises InvalidInputError: ``cursor`` 不是我们给出的
        """
        page = await self._reports.failures(_position(cursor), limit)
        position = page.next_cursor
        return page.items, None if position is None else ":".join(map(str, position))


def _position(cursor: str | None) -> tuple[int, str, int] | None:
    if cursor is None:
        return None
    try:
        failed_at, message_id, user_id = cursor.split(":")
        return int(failed_at), message_id, int(user_id)
    except ValueError:
        raise InvalidInputError("cursor: not one of ours") from None


def _receipts(flat: Sequence[bytes]) -> Iterator[DueReceipt]:
    """``confirm.lua`` 的回答，四个一组。"""
    for index in range(0, len(flat), 4):
        message_id, to, user_id, acked_at = flat[index : index + 4]
        if to.isdigit():  # 别人写坏的状态表：没有人要这封回执
            yield DueReceipt(message_id.decode(), int(to), int(user_id), int(acked_at))


def _by_user(rows: Sequence[DeliveredRow]) -> list[tuple[int, list[str]]]:
    by_user: defaultdict[int, list[str]] = defaultdict(list)
    for message_id, user_id, _, _ in rows:
        by_user[user_id].append(message_id)
    return list(by_user.items())


#: 一个窗口分成这么多个时段。
BUCKETS: Final = 24

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Tally:
    """一组收件人的各状态人数。"""

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    expired: int = 0
    pending: int = 0
    withdrawn: int = 0

    def add(self, status: DeliveryStatus, count: int) -> None:
        self.sent += count
        if status.is_known:
            setattr(self, status.value, getattr(self, status.value) + count)

    @property
    def rate(self) -> float | None:
        """有了结局的里面送达的比例；还没有任何结局则 None。"""
        settled = self.delivered + self.failed + self.expired
        return self.delivered / settled if settled else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStatistics:
    """发给一个用户的消息的统计；``*_ms`` 是从（最后一次）推到确认的毫秒数，没有送达则 None。

    ``retry_rate`` 是重试过的比例；``by_time`` 的键是时段开始的毫秒，空的时段不出现。
    """

    user_id: int
    since: int
    window_s: int
    total: Tally
    retry_rate: float
    mean_ack_ms: float | None
    p95_ack_ms: int | None
    reasons: dict[str, int] = field(default_factory=dict)
    causes: dict[FailureCause, int] = field(default_factory=dict)
    by_type: dict[str, Tally] = field(default_factory=dict)
    by_time: dict[int, Tally] = field(default_factory=dict)


async def user_statistics(
    reports: DeliveryReports, user_id: int, window_s: int, now: int
) -> DeliveryStatistics:
    """``now`` 之前 ``window_s`` 秒里接受的、发给该用户的消息。"""
    since = max(0, now - window_s * 1000)
    width = max(1, ceil(window_s * 1000 / BUCKETS))
    rows = await reports.outcomes(user_id, since, width)
    total = Tally()
    for row in rows:
        total.add(row.status, row.count)
    p95 = None
    if total.delivered:
        p95 = await reports.ack_time_at(user_id, since, ceil(total.delivered * 0.95) - 1)
    return DeliveryStatistics(
        user_id=user_id,
        since=since,
        window_s=window_s,
        total=total,
        retry_rate=sum(row.retried for row in rows) / total.sent if total.sent else 0.0,
        mean_ack_ms=(
            sum(row.to_ack_ms for row in rows) / total.delivered if total.delivered else None
        ),
        p95_ack_ms=p95,
        reasons=_reasons(rows),
        causes=_causes(rows),
        by_type=_tallies(rows, lambda row: row.message_type),
        by_time=_tallies(rows, lambda row: since + row.bucket * width),
    )


def _reasons(rows: Iterable[OutcomeRow]) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for row in rows:
        if row.status is DeliveryStatus.FAILED and row.reason is not None:
            reasons[row.reason] = reasons.get(row.reason, 0) + row.count
    return reasons


def _causes(rows: Iterable[OutcomeRow | UndeliveredRow]) -> dict[FailureCause, int]:
    """失败的、过期的各类；一条也没有的是 0。"""
    causes = dict.fromkeys(FailureCause, 0)
    for row in rows:
        if row.cause is not None:
            causes[row.cause] += row.count
    return causes


@dataclass(frozen=True, slots=True, kw_only=True)
class UndeliveredStatistics:
    """一个窗口里失败的、过期的；``unknown`` 是旧程序没有记类的。"""

    window_s: int
    causes: dict[FailureCause, int]
    reasons: dict[str, int]
    unknown: int


#: 过期的没有失败的原因，与别的原因并列时用这个名字。
EXPIRED: Final = "expired"


async def undelivered_statistics(
    reports: DeliveryReports, window_s: int, now: int
) -> UndeliveredStatistics:
    """``now`` 之前 ``window_s`` 秒里记下的。"""
    rows = await reports.undelivered(max(0, now - window_s * 1000))
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons[row.reason or EXPIRED] += row.count
    return UndeliveredStatistics(
        window_s=window_s,
        causes=_causes(rows),
        reasons=dict(reasons),
        unknown=sum(row.count for row in rows if row.cause is None),
    )


def _tallies(rows: Iterable[OutcomeRow], key: Callable[[OutcomeRow], Key]) -> dict[Key, Tally]:
    tallies: dict[Key, Tally] = {}
    for row in sorted(rows, key=key):
        tallies.setdefault(key(row), Tally()).add(row.status, row.count)
    return tallies


class DueReceipt(NamedTuple):
    """``to`` 是发送者；``at`` 是结局的时刻。"""

    message_id: str
    to: int
    user_id: int
    at: int


class Receipts:
    """必须在结局记进 SQL 之后才发。"""

    def __init__(self, channel: UserChannel, people: People = INTEGERS) -> None:
        self._channel = channel
        self._people = people
        self._lost = RepeatedWarning("receipt_lost")

    async def send(self, receipts: Iterable[DueReceipt], status: DeliveryStatus) -> None:
        for receipt in receipts:
            try:
                shown = await self._people.persons([receipt.user_id])
                frame = frames.Receipt(
                    message_id=receipt.message_id,
                    recipient_id=shown[receipt.user_id],
                    status=status,
                    timestamp=receipt.at,
                )
                await self._channel.publish_frame(receipt.to, frames.encode(frame))
            except MeetingPushError as error:
                self._lost.say(
                    message_id=receipt.message_id,
                    user_id=receipt.user_id,
                    code=error.code,
                    cause=error.cause,
                )
