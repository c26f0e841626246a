"""收：连接与应用之间的一站。去重、排队、记账、落盘都在这里，没有网络。

有界的先进先出队列，会结束：读套接字的一侧放，应用的一侧取。

交到应用手里的消息。
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import structs

from ..logs import logger
from ..mailbox_model import ResumePoint
from ..person_id import PersonId
from ..protocol import frames
from ..protocol.frames import NewMessageTail
from .endpoint import ClientOptions
from .ledger import AckQueue, Applied, DeviceState, PositionStore
from .wire import NewMessage

T = TypeVar("T")


class Inbox(Generic[T]):
    """满了就让放的一侧等（背压一直传到 TCP）；结束之后取的一侧得到 None。

    asyncio.Queue 到 3.13 才能结束，故自备。
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._ended = False
        self._bounded = True

    @property
    def full(self) -> bool:
        return len(self._items) >= self._limit

    async def put(self, item: T) -> None:
        """可以取消：取消了就没有放进去。"""
        while self.full and self._bounded and not self._ended:
            self._writable.clear()
            await self._writable.wait()
        if not self._ended:
            self._items.append(item)
            self._readable.set()

    async def get(self) -> T | None:
        """可以取消：取消了就没有取走。None 表示已结束。"""
        while not self._items:
            if self._ended:
                return None
            self._readable.clear()
            await self._readable.wait()
        self._writable.set()
        return self._items.popleft()

    def unbound(self) -> None:
        """从此放的一侧不等，直到 ``clear``。"""
        self._bounded = False
        self._writable.set()

    def discard(self, unwanted: Callable[[T], bool]) -> None:
        """还没取的里面，不要的丢掉。"""
        if any(map(unwanted, self._items)):
            self._items = deque(item for item in self._items if not unwanted(item))
            self._writable.set()

    def clear(self) -> list[T]:
        """拿走全部还没取的；重新有界。"""
        self._bounded = True
        items = list(self._items)
        self._items.clear()
        self._writable.set()
        return items

    def end(self) -> None:
        """不再收新的，也丢掉没取走的；重复调用无害。"""
        self._ended = True
        self.clear()
        self._readable.set()


class ReceivedMessage(NewMessageTail, frozen=True, kw_only=True, eq=False):
    """contract 里 ``new_message`` 的全部字段，不可变。

    ``attempt`` 大于 0 表示服务器重推；广播没有 ``seq``，有 ``broadcast_id``；两者都是 None 的
    是瞬时消息。
    ``epoch`` 是收到时的代，与 ``seq`` 一起才有意义。
    """

    seq: int | None
    broadcast_id: int | None
    attempt: int
    epoch: str | None
    settle: Callable[[ReceivedMessage], None]

    def ack(self) -> None:
        """现在就算已应用，不等处理函数返回；重复调用无害。确认在几毫秒内成批送出。"""
        self.settle(self)

    def to_json(self) -> str:
        """一行 JSON，字段同 contract 的 ``new_message``；``broadcast_id`` 只有广播才有。"""
        fields = {name: getattr(self, name) for name in NewMessage.__struct_fields__}
        if self.broadcast_id is None:
            del fields["broadcast_id"]
        return msgspec.json.encode(fields).decode()

    def __repr__(self) -> str:
        # 不含标题与正文：repr 常常进日志。
        return f"ReceivedMessage({self.message_id}, seq={self.seq}, attempt={self.attempt})"


class Intake:
    """一台设备的消息入口；连接来来去去，它一直在。

    ``changed``：有确认要送，或有状态要存。
    """

    def __init__(
        self, state: DeviceState, store: PositionStore | None, options: ClientOptions
    ) -> None:
        self._capacity = options.applied_capacity
        self._store = store
        self._unsaved = False
        self._saving = asyncio.Lock()
        self.device_id = state.device_id
        self.inbox: Inbox[ReceivedMessage] = Inbox(options.inbox_limit)
        self.changed = asyncio.Event()
        #: 排着队或正在处理的消息 id：重推的不该再排一次。
        self._in_hand: set[str] = set()
        self._restore(state)

    def _restore(self, state: DeviceState) -> None:
        resume = None
        if state.epoch is not None and state.floor is not None:
            resume = ResumePoint(state.epoch, state.floor)
        self.user_id = state.user_id
        self._applied = Applied(self._capacity, resume=resume, ids=state.applied_ids)
        self.acks = AckQueue(state.unconfirmed)

    def belong_to(self, user_id: PersonId) -> None:
        """这台设备现在是谁的；换了人，旧位置与旧账都不能用，只留设备 id。"""
        if self.user_id not in (None, user_id):
            self._restore(DeviceState(device_id=self.device_id))
        if self.user_id != user_id:
            self.user_id = user_id
            self._mark()

    @property
    def resume_point(self) -> ResumePoint | None:
        return self._applied.resume_point

    # ── 连接一侧 ────────────────────────────────────────────────────────────

    def opened(self, welcome: frames.Welcome) -> None:
        self._applied.opened(
            welcome.epoch, welcome.seq, resumed=welcome.resumed, pending=welcome.pending
        )
        self.acks.reopen()
        self._mark()

    def closed(self) -> None:
        """连接断了：没轮到的都丢掉，下一条连接会重推；正在处理的继续。"""
        for message in self.inbox.clear():
            self._in_hand.discard(message.message_id)

    async def receive(self, frame: NewMessage) -> None:
        """一条消息到了：应用过的只补确认，在手里的忽略，新的排队（满了就等）。"""
        if frame.seq is not None:
            self._applied.received(frame.seq)
        message = ReceivedMessage(
            **structs.asdict(frame), epoch=self._applied.epoch, settle=self.settle
        )
        if frame.message_id in self._applied.ids:
            self._settle(message, confirm=True)  # 上一次的确认也许没有到
        elif frame.message_id not in self._in_hand:
            self._in_hand.add(frame.message_id)
            await self._enqueue(message)

    async def _enqueue(self, message: ReceivedMessage) -> None:
        try:
            await self.inbox.put(message)
        except asyncio.CancelledError:
            self._in_hand.discard(message.message_id)
            raise

    def withdrawn(self, frame: frames.Withdrawn) -> None:
        """占一个 seq 的通知：马上算已应用，照样确认。那条消息没轮到的、再来的不交给应用。"""
        self._applied.received(frame.seq)
        self.inbox.discard(lambda message: message.message_id == frame.message_id)
        self._in_hand.discard(frame.message_id)
        self._applied.applied(frame.message_id, frame.seq, self._applied.epoch)
        self.acks.add(frame.message_id)
        self._mark()

    def lacks(self, seq: int) -> bool:
        """服务器最新的是 ``seq``：其中有没到手的。"""
        return self._applied.lacks(seq)

    def gap(self, frame: frames.Gap) -> None:
        self._applied.gap(frame.from_seq, frame.to_seq)
        self._mark()

    def resync(self, frame: frames.Resync) -> None:
        self._applied.resynced(frame.epoch, frame.seq)
        self._mark()

    # ── 应用一侧 ────────────────────────────────────────────────────────────

    def settle(self, message: ReceivedMessage) -> None:
        """应用处理完了：记账、等着送确认。幂等：``ack()`` 之后处理函数又返回，只送一次。"""
        self._settle(message, confirm=not self._is_settled(message.message_id))

    def _settle(self, message: ReceivedMessage, *, confirm: bool) -> None:
        self._in_hand.discard(message.message_id)
        self._applied.applied(message.message_id, message.seq, message.epoch)
        if confirm and (message.seq is not None or message.broadcast_id is not None):
            self.acks.add(message.message_id)
        self._mark()

    def settle_id(self, message_id: str) -> None:
        """应用只给了 id：没有 seq，下限不动，续传时重推来再按 id 去重。幂等。"""
        if self._is_settled(message_id):
            return
        self._in_hand.discard(message_id)
        self._applied.ids.add(message_id)
        self.acks.add(message_id)
        self._mark()

    def _is_settled(self, message_id: str) -> bool:
        """应用说过它处理完了：确认送出了，或正等着送。"""
        return message_id not in self._in_hand and message_id in self._applied.ids

    def failed(self, message: ReceivedMessage) -> None:
        """应用没处理成：不确认；服务器再推来时仍会交给应用。"""
        self._in_hand.discard(message.message_id)

    # ── 落盘 ────────────────────────────────────────────────────────────────

    def _mark(self) -> None:
        self._unsaved = True
        self.changed.set()

    async def persist(self) -> None:
        """有变化且有文件就存；存不了只记日志：收发不因磁盘停下，代价是重启后可能重复。"""
        # 锁：后来的要等正在写的那次写完，才能说“已存”
        async with self._saving:
            if self._store is None or not self._unsaved:
                return
            self._unsaved = False
            try:
                await asyncio.to_thread(self._store.save, self._snapshot())
            except OSError as error:
                self._unsaved = True
                logger.bind(error=type(error).__name__).error("client_state_save_failed")
            except asyncio.CancelledError:
                self._unsaved = True
                raise

    def _snapshot(self) -> DeviceState:
        resume = self._applied.resume_point
        return DeviceState(
            device_id=self.device_id,
            user_id=self.user_id,
            epoch=resume.epoch if resume else None,
            floor=resume.last_seq if resume else None,
            applied_ids=self._applied.ids.oldest_first(),
            unconfirmed=self.acks.unconfirmed(),
        )
