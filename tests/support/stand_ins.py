"""边缘所见的邻居的替身：只代替我们自己的契约，记下收到的一切，可以按需失灵。"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from meeting_push import contracts
from meeting_push.contracts import (
    Arrival,
    ChannelHandler,
    Newcomer,
    Opened,
    Quiet,
    RetrySettled,
    Unfinished,
    Watcher,
    WhyUnanswered,
)
from meeting_push.errors import InvalidTokenError, MeetingPushError, RedisUnavailableError
from meeting_push.limits.rate import TrustedProxies
from meeting_push.mailbox_model import MailboxEntry, MailboxView, ResumePoint
from meeting_push.model import (
    Ack,
    AckOutcome,
    BroadcastEntry,
    BroadcastView,
    ConnectionInfo,
    FailureCause,
    PresenceStatus,
    Principal,
)
from meeting_push.person_id import PersonId
from meeting_push.protocol.envelope import BroadcastId, new_message
from meeting_push.protocol.sent import Overdue
from meeting_push.redis.keys import Keys
from meeting_push.settings import load_settings
from meeting_push.websocket.admission import HandshakeLimits
from meeting_push.websocket.handshake import Authenticator
from meeting_push.websocket.manager import ConnectionManager
from meeting_push.websocket.requests import Sinks

EPOCH = "epoch-1"


def message_id(number: int) -> str:
    return f"01J{number:023d}"


def tail(number: int, content: str = "text", priority: int = 0, withdrawn: bool = False) -> bytes:
    gone = '"withdrawn_at":3,' if withdrawn else ""
    return (
        f'"message_id":"{message_id(number)}",{gone}"message_type":"message","priority":{priority},'
        f'"title":"t{number}","content":"{content}","sender":{{"id":1,"name":"a"}},'
        f'"timestamp":1,"expires_at":2,"data":null}}'
    ).encode()


class Verifier:
    """认识的令牌才有效；值是身份或要抛出的错误。票据用一次就没了。"""

    def __init__(self) -> None:
        self.tokens: dict[str, Principal | MeetingPushError] = {}
        self.tickets: dict[str, Principal] = {}

    async def redeem_ticket(self, ticket: str) -> Principal:
        if ticket not in self.tickets:
            raise InvalidTokenError("unknown ticket")
        return self.tickets.pop(ticket)

    def verify_at_once(self, token: str) -> Principal | None:
        known = self.tokens.get(token)
        if isinstance(known, MeetingPushError):
            raise known
        return known

    async def verify_access_token(self, token: str) -> Principal:
        known = self.tokens.get(token, InvalidTokenError("unknown token"))
        if isinstance(known, MeetingPushError):
            raise known
        return known


class Channels:
    """``down`` 置位时订阅一直等着，如同 Redis 断开。"""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.subscribed: set[int] = set()
        self.calls: list[tuple[str, int]] = []
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def subscribe(self, user_id: int) -> None:
        self.calls.append(("subscribe", user_id))
        await self.up.wait()
        self.subscribed.add(user_id)

    def subscribing(self, user_id: int) -> asyncio.Future[None] | None:
        if user_id in self.subscribed:
            return None
        if user_id not in self._waiting or self._waiting[user_id].done():
            self._waiting[user_id] = asyncio.ensure_future(self.subscribe(user_id))
        return self._waiting[user_id]

    def unsubscribe(self, user_id: int) -> None:
        self.calls.append(("unsubscribe", user_id))
        self.subscribed.discard(user_id)


class Mailbox:
    """内存信箱；``opened`` 在每次读取开始时置位，``gate`` 可让读取停在返回之前。

    ``pace_s``：每次读、每次取都要这么久；``most``：同时在做的最多有几个。
    """

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.seqs: defaultdict[int, int] = defaultdict(int)
        self.kept: defaultdict[int, dict[int, tuple[MailboxEntry, bytes]]] = defaultdict(dict)
        #: 连同确认过的。
        self.log: defaultdict[int, dict[int, tuple[MailboxEntry, bytes]]] = defaultdict(dict)
        self.resumes: list[ResumePoint | None] = []
        self.available = True
        self.opened = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.pace_s = 0.0
        self.most: Counter[str] = Counter()
        #: 每次取了几条正文。
        self.taken: list[int] = []
        self._now: Counter[str] = Counter()

    def put(
        self,
        user_id: int,
        number: int,
        *,
        priority: int = 0,
        content: str = "text",
        withdrawn: bool = False,
    ) -> bytes:
        """存一条，返回它的帧。"""
        self.seqs[user_id] += 1
        seq = self.seqs[user_id]
        frame = new_message(seq, 0, tail(number, content, priority, withdrawn))
        entry = MailboxEntry(seq, message_id(number), priority)
        self.kept[user_id][seq] = self.log[user_id][seq] = (entry, frame)
        return frame

    async def open(self, user_id: int, resume: ResumePoint | None = None) -> MailboxView:
        if not self.available:
            raise RedisUnavailableError("down")
        await self._take_time("open")
        self.resumes.append(resume)
        resumed = resume is not None and resume.epoch == self.epoch
        log = self.log[user_id] if resumed else {}
        after = resume.last_seq if resume is not None else 0
        seqs = {*self.kept[user_id], *(seq for seq in log if seq > after)}
        entries = [self.log[user_id][seq][0] for seq in seqs]
        entries.sort(key=lambda entry: (-entry.priority, entry.seq))
        view = MailboxView(
            self.epoch,
            self.seqs[user_id],
            tuple(entries),
            resumed=resumed,
            resync_reason=None if resumed or resume is None else "epoch_changed",
        )
        self.opened.set()
        await self.gate.wait()
        return view

    async def load(self, entries: Sequence[MailboxEntry]) -> list[bytes]:
        await self._take_time("load")
        self.taken.append(len(entries))
        everything = {entry: frame for log in self.log.values() for entry, frame in log.values()}
        return [everything[entry] for entry in entries if entry in everything]

    async def _take_time(self, what: str) -> None:
        if self.pace_s:
            self._now[what] += 1
            self.most[what] = max(self.most[what], self._now[what])
            await asyncio.sleep(self.pace_s)
            self._now[what] -= 1


class AckSink:
    def __init__(self) -> None:
        self.recorded: list[tuple[int, Ack]] = []
        self.confirmable: set[str] = set()
        self.confirmed: list[tuple[int, tuple[str, ...]]] = []
        self.failure: MeetingPushError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def ids(self) -> list[str]:
        return [ack.message_id for _, ack in self.recorded]

    def record(self, user_id: int, acks: Sequence[Ack]) -> None:
        self.recorded += [(user_id, ack) for ack in acks]

    async def confirm(self, user_id: int, message_ids: Sequence[str], now: int) -> AckOutcome:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.confirmed.append((user_id, tuple(message_ids)))
        unknown = tuple(each for each in message_ids if each not in self.confirmable)
        return AckOutcome(len(message_ids) - len(unknown), unknown)


class PresenceSink:
    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.online: dict[str, ConnectionInfo] = {}
        #: 走了的，各说明了什么。
        self.left: list[FailureCause | None] = []

    def connection_opened(self, user_id: int, info: ConnectionInfo) -> None:
        self.events.append(("opened", user_id))
        self.online[info.connection_id] = info

    def connection_closed(
        self, user_id: int, connection_id: str, left: FailureCause | None = None
    ) -> None:
        self.events.append(("closed", user_id))
        self.left.append(left)
        del self.online[connection_id]

    def heartbeat(self, user_id: int, connection_id: str, now: int) -> None:
        self.events.append(("heartbeat", user_id))

    def status_changed(
        self,
        user_id: int,
        connection_id: str,
        status: PresenceStatus,
        device_info: str | None,
    ) -> None:
        self.events.append(("status", user_id, status, device_info))


class ReadSink:
    def __init__(self) -> None:
        self.read: list[tuple[int, tuple[str, ...]]] = []

    async def mark_read(self, user_id: int, message_ids: Sequence[str]) -> int:
        self.read.append((user_id, tuple(message_ids)))
        return 3


class Unhurried(HandshakeLimits):
    """来得多快都行；``suspicious``：哪里来的陌生人都信不过；``spendthrifts``：额度用完了的人。"""

    def __init__(self) -> None:
        super().__init__(load_settings().handshake)
        self.suspicious = False
        self.spendthrifts: set[int] = set()
        self.failures = 0

    def failed(self, address: str, error: MeetingPushError) -> None:
        self.failures += 1

    def suspects(self, address: str) -> bool:
        return self.suspicious

    def hurries(self, person: PersonId) -> bool:
        return person in self.spendthrifts

    def spent(self, user_id: int) -> bool:
        return user_id in self.spendthrifts

    def check_stranger(self, address: str) -> None: ...

    def check_user(self, principal: Principal, address: str) -> None: ...


class Seats:
    """总有座位。"""

    async def claim(self, user_id: int, connection_id: str, device_id: str) -> bool:
        return True

    def took(self, user_id: int, connection_id: str, seat: bytes | None) -> bool:
        return seat is not None

    def release(self, user_id: int, connection_id: str) -> None: ...


class Arrivals:
    """总有座位，没有广播；信箱是 ``mailbox``。"""

    def __init__(self, mailbox: contracts.Mailbox) -> None:
        self._mailbox = mailbox

    def begin(self, who: Newcomer, newest: int, done: Callable[[Quiet | Unfinished], None]) -> None:
        reading = asyncio.ensure_future(self._mailbox.open(who.user_id, who.resume))
        reading.add_done_callback(partial(self._read, newest, done))

    def _read(
        self,
        newest: int,
        done: Callable[[Quiet | Unfinished], None],
        reading: asyncio.Future[MailboxView],
    ) -> None:
        if reading.cancelled() or reading.exception() is not None:
            done(Unfinished(None))
            return
        view = reading.result()
        if view.entries or view.resync_reason is not None:
            done(Unfinished([view]))
        else:
            done(Quiet(b"seat", view.epoch, view.seq, view.resumed, newest))

    async def finish(self, who: Newcomer, unfinished: Unfinished) -> Opened:
        if unfinished.answer is not None:
            return Opened(unfinished.answer[0], BroadcastView((), 0))
        return Opened(await self._mailbox.open(who.user_id, who.resume), BroadcastView((), 0))


class NoBroadcasts:
    """没有人广播过；日志之外的照样推。"""

    newest = 0

    def arrived(self, payload: bytes) -> BroadcastId | Arrival | None:
        return None

    def after(self, broadcast_id: int) -> BroadcastView:
        return BroadcastView((), broadcast_id)

    async def load(self, entries: Sequence[BroadcastEntry]) -> list[bytes]:
        return []


class Watches:
    """记得各人关注着谁；状态从不变。"""

    def __init__(self) -> None:
        self.watched: defaultdict[Watcher, set[int]] = defaultdict(set)

    async def watch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        self.watched[watcher].update(user_ids)
        return len(self.watched[watcher])

    def unwatch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        self.watched[watcher].difference_update(user_ids)
        return len(self.watched[watcher])

    def forget(self, watcher: Watcher) -> None:
        self.watched.pop(watcher, None)


class RetrySink:
    def __init__(self) -> None:
        self.claimed: list[tuple[int, Overdue]] = []
        self.settle: RetrySettled | None = None
        self.why: WhyUnanswered | None = None

    def claim(
        self, user_id: int, overdue: Sequence[Overdue], settle: RetrySettled, why: WhyUnanswered
    ) -> None:
        self.claimed += [(user_id, each) for each in overdue]
        self.settle, self.why = settle, why


def authenticator_of(
    verifier: Verifier, allowed_origins: Iterable[str] = (), limits: HandshakeLimits | None = None
) -> Authenticator:
    limits = limits or Unhurried()
    return Authenticator(verifier, allowed_origins, limits=limits, proxies=TrustedProxies())


def manager_of(
    sinks: Sinks, *, authenticator: Authenticator, mailbox: contracts.Mailbox, **rest: Any
) -> ConnectionManager:
    """``rest`` 之外的邻居都无事。"""
    return ConnectionManager(
        authenticator=authenticator,
        sinks=sinks,
        keys=Keys(),
        routes={},
        seats=Seats(),
        arrivals=Arrivals(mailbox),
        mailbox=mailbox,
        on_push=lambda _payload, _key, _now: None,
        broadcasts=NoBroadcasts(),
        **rest,
    )


class Bus:
    """投递与发布：先进信箱，再把同一帧交给订阅了频道的管理者。"""

    def __init__(self, mailbox: Mailbox, channels: Channels, handler: ChannelHandler) -> None:
        self._keys = Keys()
        self._mailbox = mailbox
        self._channels = channels
        self._handler = handler

    def publish(self, user_id: int, payload: bytes) -> None:
        if user_id in self._channels.subscribed:
            self._handler(self._keys.user_channel(user_id).encode(), payload)

    def publish_to_all(self, payload: bytes) -> None:
        self._handler(self._keys.broadcast_channel.encode(), payload)

    def deliver(
        self, user_id: int, number: int, *, priority: int = 0, content: str = "text"
    ) -> bytes:
        frame = self._mailbox.put(user_id, number, priority=priority, content=content)
        self.publish(user_id, frame)
        return frame
