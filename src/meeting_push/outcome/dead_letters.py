"""死信：看、重新入队、过期后丢弃。

一封死信要么是队列里处理不了的条目（``reject.lua``），要么是一个失败的收件人（``fail.lua``）；
字段相同：``v``、``entry``（``QueueEntry`` 的 JSON，畸形的则是原文）、``reason``、``queue``。

失败：记下、进死信、移出信箱；以及操作者的重新入队与用户的清空。

次序是承诺的一部分（DLV-1）。失败：先 SQL，后 Redis（状态、死信、移出信箱是一步），死在两者
之间则信箱里还有，下一次登记或确认接着做完。重新入队：先进队列，后改 SQL，死在两者之间则
SQL 仍是 failed 而消息在路上，确认到了照样是 delivered。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from .. import errors
from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import MessageExpiredError, NotFoundError, UnavailableError
from ..logs import RepeatedWarning, logger
from ..model import DeliveryStatus, FailureCause, QueueEntry, cause_of
from ..redis.outcomes import DeadLetterStreams, Outcomes, RawLetter
from ..redis.redis_service import RedisService
from ..storage.id_list import Recipient
from ..storage.outcomes import Failed, OutcomeRepository
from ..storage.recipients import DeliveredRow, RecipientRepository
from .delivery_confirmation_service import DueReceipt, Receipts

#: 用户（或管理员）清空了信箱。
CLEARED: Final = "cleared"
#: 清空时一次处理这么多条。
CLEAR_BATCH: Final = 500

_encoder: Final = msgspec.json.Encoder()


class DeliveryFailures:
    """方法都幂等；错误是 ``UnavailableError`` 的子类，重来无害。"""

    def __init__(
        self,
        *,
        outcomes: Outcomes,
        record: OutcomeRepository,
        recipients: RecipientRepository,
        mailbox: OfflineMessageQueue,
        receipts: Receipts,
        clock: Clock = now_ms,
    ) -> None:
        self._outcomes = outcomes
        self._record = record
        self._recipients = recipients
        self._mailbox = mailbox
        self._receipts = receipts
        self._clock = clock
        self._warnings: dict[str, RepeatedWarning] = {}
        #: 本进程记下的失败，按原因，只增。
        self.failed: Counter[str] = Counter()
        #: 同上，按类。
        self.causes: Counter[FailureCause] = Counter()

    async def fail(
        self,
        pairs: Sequence[Recipient],
        reason: str,
        *,
        cause: FailureCause | None = None,
        letters: bool = True,
    ) -> int:
        """把还没有结局的记为 failed，返回这次记下几条；``letters``：每个收件人一封死信。

        ``cause``：哪一类；没有给就由原因看出（``model.cause_of``）。
        """
        now, cause = self._clock(), cause or cause_of(reason)
        rows = await self._record.record_failed(pairs, reason, now, cause)
        verdicts = await self._outcomes.fail(
            [(row.message_id, row.user_id, _entry(row) if letters else b"") for row in rows],
            reason,
            now,
        )
        # -1：他的键坏了，Redis 那一侧没有记成；记录里的失败照样告诉发送者
        fresh = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict in (1, -1)]
        await self._prefer_acks(rows, verdicts)
        self.failed[reason] += len(fresh)
        if cause is not None:
            self.causes[cause] += len(fresh)
        self._say(fresh, reason, cause)
        await self._receipts.send(
            [
                DueReceipt(row.message_id, row.receipt_to, row.user_id, now)
                for row in fresh
                if row.receipt_to is not None
            ],
            DeliveryStatus.FAILED,
        )
        return len(fresh)

    def _say(self, fresh: Sequence[Failed], reason: str, cause: FailureCause | None) -> None:
        """谁都能让一千条一起失败（灌满信箱、清空自己的）：每个原因轮流说，条数看指标。"""
        if fresh:
            warning = self._warnings.setdefault(reason, RepeatedWarning("deliveries_failed"))
            one = fresh[0]
            warning.say(
                reason=reason,
                cause=cause and cause.value,
                deliveries=len(fresh),
                message_id=one.message_id,
                user_id=one.user_id,
            )

    async def _prefer_acks(self, rows: Sequence[Failed], verdicts: Sequence[int | bytes]) -> None:
        """确认已记进 Redis 而还没记进 SQL 的：替它做完。"""
        late: list[DeliveredRow] = []
        for row, verdict in zip(rows, verdicts, strict=True):
            if isinstance(verdict, bytes) and (times := _times(verdict)) is not None:
                late.append((row.message_id, row.user_id, *times))
        if late:
            await self._recipients.record_delivered(late)
            await self._mailbox.remove(
                [(user_id, [message_id]) for message_id, user_id, *_ in late]
            )

    async def clear(self, user_id: int) -> int:
        """清空信箱，返回清掉几条：还没有结局的记为 failed（``cleared``），先记录，后移出。

        此后才到的消息不受影响。
        """
        message_ids = await self._mailbox.message_ids(user_id)
        for start in range(0, len(message_ids), CLEAR_BATCH):
            chunk = message_ids[start : start + CLEAR_BATCH]
            await self.fail([(message_id, user_id) for message_id in chunk], CLEARED)
            # 余下的早有结局，或不是经 MessageService 来的（没有记录）
            await self._mailbox.remove([(user_id, chunk)])
        return len(message_ids)

    async def requeue(self, message_id: str, user_id: int) -> None:
        """一个失败的收件人从头再来：pending，次数归零。

        :raises NotFoundError: 没有这样一条失败
        :raises MessageExpiredError: 已过有效期，再投递也没有意义
        """
        row = await self._record.find_failed(message_id, user_id)
        if row is None:
            raise NotFoundError("no such failed delivery")
        if row.expires_at <= self._clock():
            raise MessageExpiredError("the message has expired")
        await self._again([row])

    async def requeue_all(self, pairs: Sequence[Recipient]) -> int:
        """其中失败的与仍 pending 的、没有过期的从头再来，返回几条。"""
        now = self._clock()
        rows = await self._record.requeueable(pairs)
        return await self._again([row for row in rows if row.expires_at > now])

    async def _again(self, rows: Sequence[Failed]) -> int:
        if not rows:
            return 0
        requeued = await self._outcomes.requeue(
            [
                (row.message_id, row.user_id, row.priority, row.expires_at, _entry(row))
                for row in rows
            ],
            self._clock(),
        )
        await self._record.reset_failed([(row.message_id, row.user_id) for row in rows])
        logger.bind(deliveries=requeued).info("deliveries_requeued")
        return requeued


def _times(state: bytes) -> tuple[int, int] | None:
    """``delivered:推:确认`` 里的两个时刻；别人写坏的则 None。"""
    match state.split(b":"):
        case [_, sent_at, acked_at] if sent_at.isdigit() and acked_at.isdigit():
            return int(sent_at), int(acked_at)
    return None


def _entry(row: Failed) -> bytes:
    return _encoder.encode(
        QueueEntry(
            message_id=row.message_id,
            recipient_ids=(row.user_id,),
            priority=row.priority,
            expires_at=row.expires_at,
        )
    )


#: 取出太多次（``queue/queue_reader.py`` 的 ``POISON``；两间房互不认识）。
POISON: Final = "delivered_too_often"
#: 一轮过期清理看这么多封。
SCAN_LETTERS: Final = 200

#: 找死于暂时的，看最新的这么多封，一页一页。
LOOK_LETTERS: Final = 1_000
PAGE_LETTERS: Final = 100

_decoder: Final = msgspec.json.Decoder(QueueEntry)

#: Redis 或数据库不在的一段（毫秒）。
Outage = tuple[int, int]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``entry`` 为 None 的读不懂，不能重新入队；``died_at`` 是毫秒。"""

    id: str
    died_at: int
    reason: str
    queue: str
    entry: QueueEntry | None
    #: 处理它时的意外，连同回溯；没有记下过则空。
    error: str = ""


class DeadLetters:
    """错误同 ``LeanConnection.execute``。"""

    def __init__(
        self,
        redis: RedisService,
        failures: DeliveryFailures,
        *,
        streams: Iterable[str] = (),
    ) -> None:
        self._letters = DeadLetterStreams(redis.lean, redis.keys, streams)
        self._failures = failures
        #: 此刻共几封。
        self.count = self._letters.count

    async def page(
        self, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[DeadLetter], str | None]:
        """新的在前；``cursor`` 是上一页最后一封的 id。"""
        letters = [_letter(raw) for raw in await self._letters.newest(cursor, limit + 1)]
        letters.sort(key=lambda letter: _position(letter.id), reverse=True)
        more = len(letters) > limit
        return letters[:limit], letters[limit - 1].id if more else None

    async def requeue(self, ids: Sequence[str]) -> list[str]:
        """把这些死信里没有送达、没有过期的收件人从头再来；返回真正重新入队的死信的 id。

        先进队列，后删死信。读不懂的、过期的、都已有结局的不动。幂等。
        """
        requeued = []
        for letter in map(_letter, await self._letters.find(dict.fromkeys(ids))):
            if letter.entry is not None and await self._requeue(letter.entry):
                await self._letters.delete([letter.id])
                requeued.append(letter.id)
        return requeued

    async def _requeue(self, entry: QueueEntry) -> int:
        return await self._failures.requeue_all(
            [(entry.message_id, user_id) for user_id in entry.recipient_ids]
        )

    async def requeue_temporary(self, outages: Sequence[Outage], most: int) -> int:
        """死于暂时的（见 ``died_of_outage``）从头再来，至多 ``most`` 封；返回几封。

        只看最新的 ``LOOK_LETTERS`` 封。幂等。
        """
        found: list[str] = []
        cursor: str | None = None
        for _ in range(LOOK_LETTERS // PAGE_LETTERS):
            letters, cursor = await self.page(cursor, PAGE_LETTERS)
            found += [each.id for each in letters if died_of_outage(each, outages)]
            if cursor is None or len(found) >= most:
                break
        return len(await self.requeue(found[:most]))

    async def drop_expired(self, now: int) -> int:
        """各看一段，丢掉过了有效期的：再也不能重新入队。下一次接着看，到头再从头来。"""
        return sum([await self._drop_expired(stream, now) for stream in self._letters.streams])

    async def _drop_expired(self, stream: str, now: int) -> int:
        letters = [_letter(raw) for raw in await self._letters.scan(stream, SCAN_LETTERS)]
        gone = [each.id for each in letters if each.entry and each.entry.expires_at <= now]
        if gone:
            await self._letters.delete(gone, [stream])
            logger.bind(letters=len(gone)).info("dead_letters_expired")
        return len(gone)


def died_of_outage(letter: DeadLetter, outages: Sequence[Outage]) -> bool:
    """记下的意外是我们的暂时的错；或没有意外，只是取出太多次（握不住），死在 ``outages`` 里。

    让工人死掉的毒条目也没有记下意外：所以平时死的不算，再来一遍又死的也不会再算。
    """
    if letter.entry is None:
        return False
    if letter.error:
        last = letter.error.rstrip().rpartition("\n")[2]
        kind = getattr(errors, last.partition(":")[0].rpartition(".")[2], None)
        return isinstance(kind, type) and issubclass(kind, UnavailableError)
    return letter.reason == POISON and any(
        since <= letter.died_at <= until for since, until in outages
    )


def _letter(raw: RawLetter) -> DeadLetter:
    entry_id, flat = raw
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return DeadLetter(
        id=entry_id.decode(),
        died_at=int(entry_id.split(b"-")[0]),
        reason=fields.get(b"reason", b"").decode(errors="replace"),
        queue=fields.get(b"queue", b"").decode(errors="replace"),
        error=fields.get(b"error", b"").decode(errors="replace"),
        entry=_decode(fields.get(b"entry", b"")),
    )


def _position(entry_id: str) -> tuple[int, int]:
    at, number = entry_id.split("-")
    return int(at), int(number)


def _decode(raw: bytes) -> QueueEntry | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        return None
