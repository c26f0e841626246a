"""消息服务：接受、收件箱、已读。

“接受”= 校验、授权、一个 SQL 事务写下消息与收件人。提交之后调用者得到凭据，消息不会
再丢（DLV-1）；入队、投递、推送都是之后的事，死在哪一步都有人补。
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, Unpack

import msgspec

from ..clock import Clock, now_ms
from ..contracts import UserDirectory
from ..deliver.message_publisher import MessagePublisher
from ..deliver.offline_message_queue import Delivery, OfflineMessageQueue
from ..errors import MeetingPushError, NotFoundError, OutcomeUnknownError
from ..limits.send_limits import Charge
from ..logs import RepeatedWarning
from ..model import Accepted, Draft, DraftOptions, Message, Outgoing, Principal, Sender
from ..node.flight_recorder import OFF, FlightRecorder
from ..people.introduction import Introduction, Ready
from ..people.people import INTEGERS, Bringer, People
from ..person_id import PersonId
from ..protocol import envelope
from ..queue.message_queue import MessageQueue
from ..storage.accept_batch import AcceptBatch
from ..storage.caller import CallerTransaction, SyncTransaction, ask_here, connection_of, run_here
from ..storage.database import Database, SqlConnection
from ..storage.idempotency import Claim, IdempotencyRepository
from ..storage.inbox import InboxRepository, SentRepository
from ..storage.inbox_pages import InboxFilter
from ..storage.messages import MessageRepository
from ..storage.rows import InboxItem, Page
from .drafts import (
    AcceptTally,
    DraftRules,
    check_idempotency_key,
    in_slices,
    message_from,
)
from .idempotency import answer_of, described, stored_response
from .inbox import Inbox
from .outbox_relay import OutboxRelay, Pause
from .withdrawal import Withdrawal

_accepted: Final = msgspec.json.Decoder(list[Accepted])


@dataclass(frozen=True, slots=True)
class RealtimeResult:
    """``send_realtime_message`` 的结果：当场有节点在听的收件人与其余的（已在信箱里等）。"""

    accepted: Accepted
    online: tuple[PersonId, ...]
    offline: tuple[PersonId, ...]


@dataclass(frozen=True, slots=True)
class MessageStores:
    """消息服务要用的存储。"""

    database: Database
    messages: MessageRepository
    inbox: InboxRepository
    idempotency: IdempotencyRepository
    directory: UserDirectory


class MessageService:
    """实现 ``contracts.ReadSink``；方法都可被取消，取消只可能发生在提交之前或之后。"""

    def __init__(
        self,
        stores: MessageStores,
        *,
        rules: DraftRules,
        relay: OutboxRelay,
        queue: MessageQueue,
        mailbox: OfflineMessageQueue,
        publisher: MessagePublisher,
        recorder: FlightRecorder = OFF,
        people: People = INTEGERS,
        clock: Clock = now_ms,
    ) -> None:
        self._people = people
        self._stores = stores
        self._addressing = Introduction(people, stores.directory, rules.check_counts)
        self._rules = rules
        self._relay = relay
        self._queue = queue
        self._mailbox = mailbox
        self.withdrawal = Withdrawal(stores.database, queue, mailbox, clock)
        self._clock = clock
        self._deferred = RepeatedWarning("realtime_deferred")
        self.inbox = Inbox(stores.inbox, publisher)
        self.sent = SentRepository(stores.database)
        self._accepts = AcceptBatch(stores.messages, stores.idempotency)
        self.tally = AcceptTally()
        self._record = recorder.accepted.extend

    # ── 发送 ────────────────────────────────────────────────────────────────

    async def send_message(
        self,
        sender: Sender,
        recipient_id: PersonId,
        title: str,
        content: str,
        **options: Unpack[DraftOptions],
    ) -> Accepted:
        """发给一个用户；见 ``send_message_to_multiple``。"""
        return await self.send_message_to_multiple(
            sender, [recipient_id], title, content, **options
        )

    async def send_message_to_multiple(
        self,
        sender: Sender,
        recipient_ids: Sequence[PersonId],
        title: str,
        content: str,
        **options: Unpack[DraftOptions],
    ) -> Accepted:
        """发给多个用户；返回即已提交。重复的收件人只算一次。

        :raises InvalidInputError: 输入不合规（含收件人不存在）；什么都没有保存
        :raises QueueFullError: 队列已满；什么都没有保存
        :raises OutcomeUnknownError: 可能已保存，发件箱会送；带着同一个幂等键再来才安全
        :raises DatabaseUnavailableError: 什么都没有保存
        """
        draft = Draft(recipient_ids=tuple(recipient_ids), title=title, content=content, **options)
        return (await self.send_batch(sender, [draft]))[0]

    async def send_batch(
        self,
        sender: Sender,
        drafts: Sequence[Draft],
        idempotency_key: str | None = None,
        *,
        charge: Charge | None = None,
        key_id: int | None = None,
        bringer: Bringer | None = None,
        pause: Pause | None = nullcontext,
    ) -> list[Accepted]:
        """一个事务里接受一批，全部或全不。

        ``charge``：检查过的草稿在碰数据库之前记在谁的账上（见 ``SendQuota``）；应用自己的发送不记。
        ``key_id``：哪一枚 API 密钥发的；份额与幂等键都是它的，不论替谁发。
        ``bringer``：收件人里我们还不认识的算谁带来的（见 ``People``）；应用自己的不数。
        ``pause``：等投递赶上的那一段怎样等（``OutboxRelay.catch_up``）；None = 不等。

        带 ``idempotency_key``（每个发送者各自的名字空间）重复调用时返回第一次的结果；
        同一个键配不同内容 → IdempotencyConflictError。
        """
        drafts = await self._addressing.addressed(drafts, bringer)
        outgoing, accepted = await self._accept(
            sender, drafts, idempotency_key, charge, key_id, pause
        )
        self._relay.submit(outgoing)
        return accepted

    async def send_within(
        self, connection: SqlConnection, sender: Sender, draft: Draft
    ) -> Outgoing:
        """在调用者的事务（``Database.transaction``）里接受一条：随它一起提交或回滚。

        收件人是号，由调用者保证存在；发送者须已有号（来过）。提交之后交给 ``dispatch``；进程死在
        两者之间也不丢，发件箱扫描会送出它，只是晚几秒。

        :raises InvalidInputError: 草稿不合规
        """
        now = self._clock()
        checked = self._rules.check(draft, now)
        number = await self._people.sender(sender.id)
        outgoing = Outgoing(await self._message(sender, number, checked, now), checked.numbers)
        await self._stores.messages.insert(connection, [outgoing])
        return outgoing

    def dispatch(self, outgoing: Outgoing) -> None:
        """``send_within`` 的事务已提交：马上入队。"""
        self._relay.submit([outgoing])

    async def send_realtime_message(
        self,
        sender: Sender,
        recipient_ids: Sequence[PersonId],
        title: str,
        content: str,
        **options: Unpack[DraftOptions],
    ) -> RealtimeResult:
        """接受后不经队列、当场投递，并说出谁在线。

        与 ``send_message_to_multiple`` 同样持久：先进信箱再推；当场投递不成（Redis 不在）
        就留给发件箱中继，此时 ``online`` 为空。
        """
        draft = Draft(recipient_ids=tuple(recipient_ids), title=title, content=content, **options)
        drafts = await self._addressing.addressed([draft])
        outgoing, accepted = await self._accept(sender, drafts, None)
        online: set[int] = set()
        for one in outgoing:
            online |= await self._deliver_now(one)
        self._relay.submit(outgoing)
        shown = await self._people.persons([u for one in outgoing for u in one.recipient_ids])
        return RealtimeResult(
            accepted[0],
            tuple(shown[number] for number in sorted(online)),
            tuple(person for number, person in shown.items() if number not in online),
        )

    async def send_in_transaction(
        self, transaction: CallerTransaction, sender: Sender, draft: Draft
    ) -> Accepted:
        """在调用者自己的事务里接受：与他的写入一起提交，或一起消失。

        同一个数据库上的 ``AsyncConnection``、``AsyncSession``，或同步的 ``Connection``、``Session``
        （语句在别的线程里执行）。提交之前什么也不入队；之后由发件箱的扫描发现，默认最晚 6 秒，调用
        ``notify_committed()`` 则立即。头一次见到的人也在这个事务里认下：回滚了就没有过他。

        :raises InvalidInputError: 草稿不合规，收件人不存在；什么都没有写
        :raises QueueFullError: 队列已满；什么都没有写
        :raises DatabaseUnavailableError: 没有写成
        """
        ready = await self._addressing.ready(sender, draft, self._check_now)
        return await self._insert_into(transaction, ready)

    def send_in_transaction_sync(
        self, transaction: SyncTransaction, sender: Sender, draft: Draft
    ) -> Accepted:
        """同 ``send_in_transaction``，给没有事件循环的线程（Django 的视图、Celery 的任务）。

        没有 ``start`` 过也行：提交之后由别的进程的扫描发现。

        :raises RuntimeError: 这个线程里有事件循环
        """
        asking = self._addressing.ready(sender, draft, self._check_now)
        ready = ask_here(asking, self._relay.loop, self._stores.database)
        return run_here(self._insert_into(transaction, ready))

    def _check_now(self, draft: Draft) -> Draft:
        return self._rules.check(draft, self._clock())

    async def _insert_into(self, transaction: CallerTransaction, ready: Ready) -> Accepted:
        now, ttl_s = self._clock(), self._rules.limits.ttl_s
        self._queue.room.check()
        async with connection_of(transaction, self._stores.database) as connection:
            draft, number = await self._addressing.settle(connection, ready)
            made = message_from(ready.writer, draft, now, default_ttl_s=ttl_s, sender_number=number)
            await self._stores.messages.insert(connection, [Outgoing(made, draft.numbers)])
        return Accepted(made.message_id, len(draft.recipient_ids), now)

    def notify_committed(self) -> None:
        """``send_in_transaction`` 的事务提交了：立即扫描发件箱。哪个线程都行，可随意多调用。"""
        self._relay.hurry_from_anywhere()

    async def _deliver_now(self, outgoing: Outgoing) -> set[int]:
        message, recipients = outgoing.message, outgoing.recipient_ids
        tail = envelope.encode_tail(message)
        delivery = Delivery(
            message_id=message.message_id,
            tail=tail,
            recipient_ids=tuple(recipients),
            priority=message.priority,
            expires_at=message.expires_at,
            attempt=0,
        )
        try:
            await self._mailbox.store_bodies(
                [(message.message_id, tail, message.priority, message.expires_at)]
            )
            [delivered] = await self._mailbox.deliver([delivery])
        except MeetingPushError as error:
            self._deferred.say(message_id=message.message_id, code=error.code, cause=error.cause)
            return set()
        return {
            user_id for user_id, one in zip(recipients, delivered, strict=True) if one.receivers
        }

    async def _accept(
        self,
        sender: Sender,
        drafts: Sequence[Draft],
        idempotency_key: str | None,
        charge: Charge | None = None,
        key_id: int | None = None,
        pause: Pause | None = nullcontext,
    ) -> tuple[list[Outgoing], list[Accepted]]:
        now = self._clock()
        key = check_idempotency_key(idempotency_key)
        checked = await in_slices(lambda draft: self._rules.check(draft, now), drafts)
        if charge is not None:
            charge(checked)
        await self._addressing.check(checked)
        self._queue.room.check()
        number = await self._people.sender(sender.id)
        account = number if key_id is None else -key_id
        self._relay.check_share(account)
        if await self._relay.catch_up(account, checked, pause):
            self.tally.paced += 1
            now = self._clock()
        outgoing = [  # 一千条约 3 ms
            Outgoing(await self._message(sender, number, one, now, key_id), one.numbers)
            for one in checked
        ]
        accepted = [Accepted(o.message.message_id, len(o.recipient_ids), now) for o in outgoing]
        earlier = await self._store(account, key, checked, outgoing, accepted)
        if earlier is not None:
            return [], earlier
        self.tally.note(outgoing)
        self._record([(now, one.message_id) for one in accepted])
        return outgoing, accepted

    async def _store(
        self,
        account: int,
        key: str | None,
        drafts: Sequence[Draft],
        outgoing: Sequence[Outgoing],
        accepted: Sequence[Accepted],
    ) -> list[Accepted] | None:
        """提交；同时到来的共用一个事务。幂等键已被占则什么都不写，返回当时的结果。"""
        if key is None:
            try:
                await self._accepts.insert(outgoing)
            except OutcomeUnknownError as error:
                raise error.without_key() from error
            return None
        mine = stored_response([described(draft) for draft in drafts], accepted)
        earlier = await self._accepts.insert(outgoing, Claim(account, key, mine, self._clock()))
        return None if earlier is None else _accepted.decode(answer_of(earlier, mine))

    async def _message(
        self, sender: Sender, number: int, draft: Draft, now: int, key_id: int | None = None
    ) -> Message:
        if draft.sender is not None:
            sender, number = draft.sender, await self._people.sender(draft.sender.id)
        return message_from(
            sender,
            draft,
            now,
            default_ttl_s=self._rules.limits.ttl_s,
            key_id=key_id,
            sender_number=number if isinstance(sender.id, str) else None,
        )

    # ── 收件箱 ──────────────────────────────────────────────────────────────

    async def get_message(self, message_id: str, viewer: Principal) -> InboxItem | Message:
        """收件人看到自己的一行，发送者看到消息；别人看到的与不存在一样。"""
        item = await self.inbox.record.get_for(viewer.user_id, message_id)
        if item is not None:
            return item
        return await self.require_sender(message_id, viewer)

    async def require_sender(
        self, message_id: str, viewer: Principal, *, reading: bool = False
    ) -> Message:
        """只有发送者（人，或发它的密钥）与管理员可看投递状态；``reading``：有 read 的密钥也可以。

        :raises NotFoundError: 不存在，或不该让此人知道它存在
        """
        message = await self._stores.messages.get(message_id)
        sees = viewer.reads_all if reading else viewer.is_admin
        if message is None or not (sees or viewer.user_id in (message.sender_id, message.account)):
            raise NotFoundError("no such message")
        return message

    async def cancel_message(self, message_id: str, viewer: Principal) -> None:
        """撤回（发送者、管理员）：没到时的从此不送，送了的到处只剩墓碑。幂等。

        :raises NotFoundError: 不存在，或不该让此人知道它存在
        :raises AlreadyDueError: 发给所有人的
        :raises UnavailableError: Redis 或数据库不在；再来一次
        """
        message = await self.require_sender(message_id, viewer)
        self.tally.cancelled += await self.withdrawal.withdraw(message)

    async def get_inbox(
        self, user_id: int, *, unread_only: bool, cursor: str | None, limit: int
    ) -> Page[InboxItem, str]:
        """一页收件箱，新的在前；筛选、归档见 ``inbox``。"""
        wanted = InboxFilter(unread=unread_only)
        return await self.inbox.page(user_id, wanted, cursor=cursor, limit=limit)

    async def get_unread_count(self, user_id: int) -> int:
        return await self.inbox.record.unread_count(user_id)

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> int:
        return await self.inbox.mark_read(user_id, message_ids)

    async def mark_read_upto(self, user_id: int, message_id: str) -> int:
        """把不晚于 ``message_id`` 的全部标为已读，返回未读数。"""
        return await self.inbox.mark_read_upto(user_id, message_id)
