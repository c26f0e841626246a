"""收：连接与应用之间的一站。去重、排队、记账、落盘都在这里，没有网络。"""

from __future__ import annotations

import asyncio

from loguru import logger

from ..model import ResumePoint
from ..protocol import frames
from .acks import AckQueue
from .applied import Applied
from .inbox import Inbox
from .options import ClientOptions
from .received import ReceivedMessage, received
from .state_file import DeviceState, StateFile
from .wire import NewMessage


class Intake:
    """一台设备的消息入口；连接来来去去，它一直在。

    ``changed``：有确认要送，或有状态要存。
    """

    def __init__(self, state: DeviceState, file: StateFile | None, options: ClientOptions) -> None:
        self._capacity = options.applied_capacity
        self._file = file
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

    def belong_to(self, user_id: int) -> None:
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
        message = received(frame, self._applied.epoch, self.settle)
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
            if self._file is None or not self._unsaved:
                return
            self._unsaved = False
            try:
                await asyncio.to_thread(self._file.save, self._snapshot())
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
