"""一条用户连接的协议核心：纯的，没有 I/O，没有自己的时钟（``now`` 是毫秒）。

::

    OPENING ──welcome──▶ FLUSHING ──finish──▶ LIVE ──close──▶ CLOSED
                             ▲                  │
                             └── 断号 / 重读 ────┘

OPENING 与 FLUSHING 时到来的实时帧先暂存：先推信箱，再按 seq 放行（DLV-3）。
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from ..errors import BadFrameError
from ..mailbox_model import MailboxEntry, MailboxView, ResumePoint
from ..model import Ack, Principal
from .codes import CloseCode
from .commands import Acked, Close, Command, RequestIdValue, Unanswered
from .envelope import FrameKey, PushKey, batch, peek, peek_attempt
from .frames import (
    AckFrame,
    Heartbeat,
    Resync,
    Welcome,
    decode_client_frame,
    encode,
    peek_request_id,
)
from .limits import Limits
from .line_session import EXPIRY_NOTICE_MS, LineSession
from .outbox import HeldFrames
from .sent import Announced, BroadcastProgress, SentSeqs, Unacked


class Phase(Enum):
    OPENING = "opening"
    FLUSHING = "flushing"
    LIVE = "live"
    CLOSED = "closed"


class Pushed(Enum):
    """``Session.push`` 的判决；只有 SEND 要现在写出去。"""

    SEND = "send"
    HELD = "held"  # 补发未完，暂存
    HOLE = "hole"  # seq 断号：已暂存并转入 FLUSHING，调用者须重读信箱
    DUPLICATE = "duplicate"
    HELD_OVERFLOW = "held_overflow"  # 暂存已满；耐久的帧会由重读补上，瞬时的丢了
    CLOSED = "closed"


#: 热路径上少一次属性查找。
_LIVE: Final = Phase.LIVE
_SEND: Final = Pushed.SEND


class Session(LineSession):
    """状态与账目；每条连接一个，空闲时几百字节。"""

    __slots__ = (
        "_held",
        "_sent",
        "_told",
        "broadcasts",
        "epoch",
        "missed",
        "newest",
        "phase",
        "unacked",
        "user_id",
    )

    def __init__(self, user_id: int, connection_id: str, limits: Limits, now: int) -> None:
        self.user_id = user_id
        self.connection_id = connection_id
        self.phase = Phase.OPENING
        self.epoch = ""
        #: 所知的该用户最新 seq。
        self.newest = 0
        self.last_heartbeat = now
        self.broadcasts = BroadcastProgress()
        self.token_expires_at = None
        #: 暂存满了或有人要求重读：这一轮补发完后还要再读一次信箱。
        self.missed = False
        self._limits = limits
        self._sent = SentSeqs()
        #: 读到过哪里，说过哪些不来了。
        self._told = Announced()
        self.unacked = Unacked(limits)
        self._held: HeldFrames | None = None
        self._warned = False
        self._bad = self._failures = ()

    # ── 开始与补发 ──────────────────────────────────────────────────────────

    def authenticated(self, principal: Principal) -> None:
        self._require(Phase.OPENING)
        self.user_id = principal.user_id
        self.token_expires_at = principal.expires_at

    def welcome(
        self, view: MailboxView, device_id: str, now: int, person: str | None = None
    ) -> list[bytes]:
        """第一帧（以及需要时的 ``resync``）；此后开始补发。``person``：他的 id 若是一段字。"""
        self._require(Phase.OPENING)
        assert self.token_expires_at is not None, "welcome before authentication"
        self.phase = Phase.FLUSHING
        self.epoch, self.newest = view.epoch, view.seq
        frame = Welcome(
            connection_id=self.connection_id,
            user_id=self.user_id if person is None else person,
            device_id=device_id,
            epoch=view.epoch,
            seq=view.seq,
            heartbeat_interval_s=self._limits.heartbeat_interval_s,
            heartbeat_timeout_s=self._limits.heartbeat_timeout_s,
            max_frame_bytes=self._limits.max_frame_bytes,
            token_expires_at=self.token_expires_at,
            resumed=view.resumed,
            pending=len(view.entries),
            server_time=now,
        )
        told = self._told.take(view, self._sent)
        if self._held is not None and self._held.skips_after(view.seq):
            self.missed = True  # 读过之后、放行之前漏了：同 ``_hold``
        if view.resync_reason is None and not told:
            return [encode(frame)]
        return [encode(frame), *self._resync(view.resync_reason), *map(encode, told)]

    def position(self) -> ResumePoint:
        """重读从这里之后算起：别的设备期间确认了的，不在信箱里，这条连接也该有（DLV-5）。"""
        return ResumePoint(self.epoch, max(self._sent.floor, self._told.upto), proven=True)

    def reread(self, view: MailboxView) -> list[bytes]:
        """从 ``position()`` 又读了一次；日志够不着了、epoch 变了（Redis 丢过数据）就告知。"""
        self._require(Phase.FLUSHING)
        if view.epoch != self.epoch:
            return self._start_over(view)
        self.newest = max(self.newest, view.seq)
        told = self._told.take(view, self._sent)
        return [*self._resync(view.resync_reason), *map(encode, told)]

    def _start_over(self, view: MailboxView) -> list[bytes]:
        """旧 epoch 的 seq 都不算了：不可再用于 upto（按 id 的确认走核实），暂存着的也是。"""
        self.epoch, self.newest = view.epoch, view.seq
        self._sent, self._told = SentSeqs(), Announced(view.seq)
        self.unacked.clear()
        if self._held is not None and self._held.forget_seqs():
            self.missed = True  # 其中也许有新的
        return self._resync("epoch_changed")

    def _resync(self, reason: str | None) -> list[bytes]:
        if reason is None:
            return []
        return [encode(Resync(reason=reason, epoch=self.epoch, seq=self.newest))]

    def hold(self) -> None:
        """转入 FLUSHING：此后的实时帧暂存，直到 ``finish``。"""
        self._require(Phase.LIVE)
        self.phase = Phase.FLUSHING

    def unsent(self, entries: Sequence[MailboxEntry]) -> list[MailboxEntry]:
        """``entries`` 里这条连接还没推过的，次序不变。"""
        return [entry for entry in entries if entry.seq not in self._sent]

    def batch(self, messages: Sequence[bytes], now: int) -> bytes:
        """把 ``envelope.batch_parts`` 的一份合成一帧 ``batch`` 并记账。"""
        self._require(Phase.FLUSHING)
        for message in messages:
            key = peek(message)
            if key is None:
                raise AssertionError("the mailbox gave a frame without a seq")
            self._sent.add(key[0])
            self._remember(key, now)
        return batch(messages)

    def finish(self, view: MailboxView, now: int) -> list[bytes]:
        """补发完毕，转入 LIVE；返回暂存的实时帧里还没推过的，按 seq。

        ``view`` 是补发所依据的那次读取：不超过 ``view.seq`` 而又不在其中的，
        都已被确认或已过期，无需再推。
        """
        self._require(Phase.FLUSHING)
        self._sent.settle(view.seq)
        held, self._held = self._held, None
        self.phase = Phase.LIVE
        if held is None:
            return []
        return [frame for _, frame, key in held.take() if self._fresh(frame, key, now)]

    # ── 推 ────────────────────────────────────────────────────────────────

    def push(self, frame: bytes, key: PushKey, now: int) -> Pushed:
        """一帧实时帧怎么办；``key`` 由 ``envelope.frame_key`` 对所有设备只取一次。"""
        if self.phase is not _LIVE:
            return self._hold(frame, key)
        if not isinstance(key, tuple):
            return _SEND if self._fresh(frame, key, now) else Pushed.DUPLICATE
        seq = key[0]
        sent = self._sent
        if seq == sent.floor + 1 and sent.above is None:  # 常态，不必再查重
            sent.floor = seq
            self._remember(key, now)
            return _SEND
        if seq > sent.floor + 1 and seq not in sent:
            # 同一用户的 seq 连续分配、依次发布：断号说明漏收过（Redis 重连、未发布的离线消息）
            self.phase = Phase.FLUSHING
            self._hold(frame, key)
            return Pushed.HOLE
        return Pushed.SEND if self._account(frame, key, now) else Pushed.DUPLICATE

    def _fresh(self, frame: bytes, key: PushKey, now: int) -> bool:
        """还没推过，现在就该推：记账。"""
        if key is None:
            return True
        if isinstance(key, tuple):
            return self._account(frame, key, now)
        return self.broadcasts.fresh(key)

    def _account(self, frame: bytes, key: FrameKey, now: int) -> bool:
        """记账；推过的只有重试（attempt > 0）才可再推。"""
        if self._sent.add(key[0]):
            self._remember(key, now)
            return True
        attempt = peek_attempt(frame)
        if not attempt or key[0] in self._told:  # 说过它不来了
            return False
        self.unacked.pushed_again(key, attempt, now)
        return True

    def _remember(self, key: FrameKey, now: int) -> None:
        seq, message_id = key
        fresh = self.unacked.fresh
        fresh[message_id] = (seq, now)
        if len(fresh) > self._limits.max_unacked:
            self.unacked.forget_oldest()
        if seq > self.newest:
            self.newest = seq

    def _hold(self, frame: bytes, key: PushKey) -> Pushed:
        if self.phase is Phase.CLOSED:
            return Pushed.CLOSED
        if self._held is None:
            self._held = HeldFrames()
        if self.phase is Phase.FLUSHING and isinstance(key, tuple) and self._skips(key[0]):
            self.missed = True  # 补发途中又漏了：放行之前还要再读，否则次序就乱了
        if self._held.add(frame, key, self._limits.held_max_bytes):
            return Pushed.HELD
        self.missed = True
        return Pushed.HELD_OVERFLOW

    def _skips(self, seq: int) -> bool:
        held = self._held.newest if self._held is not None else 0
        return seq > max(held, self._told.upto, self._sent.floor) + 1

    # ── 收 ────────────────────────────────────────────────────────────────

    def receive(self, text: bytes, now: int) -> Command:
        if self.phase in (Phase.OPENING, Phase.CLOSED):
            raise RuntimeError(f"receive() needs a welcomed session, it is {self.phase.value}")
        if len(text) > self._limits.max_frame_bytes:
            return self.too_large(now)
        try:
            frame = decode_client_frame(text)
        except BadFrameError as error:
            return self.refuse(error.code, error.message, now, peek_request_id(text))
        if isinstance(frame, AckFrame):
            return self.ack(frame, now)
        if isinstance(frame, Heartbeat):
            return self.beat(frame, self.newest, now)
        return frame

    def ack(self, frame: AckFrame, now: int) -> Command:
        if not frame.message_ids and frame.upto is None:
            text = "an ack needs message_ids or upto"
            return self.refuse("invalid_frame", text, now, frame.request_id)
        acks: list[Ack] = []
        unverified: list[str] = []
        for message_id in dict.fromkeys(frame.message_ids):
            pushed = self.unacked.fresh.pop(message_id, None) or self.unacked.late.pop(message_id)
            if pushed is None:
                unverified.append(message_id)
            else:
                acks.append(Ack(message_id, *pushed, now))
        if frame.upto is not None:
            acks += [Ack(*each, now) for each in self.unacked.take_upto(frame.upto)]
        return Acked(acks, unverified, frame.request_id)

    def token_refreshed(self, principal: Principal, request_id: RequestIdValue) -> Command:
        """别人的令牌关闭连接（4501）。"""
        if principal.user_id != self.user_id:
            return Close(CloseCode.FORBIDDEN)
        return super().token_refreshed(principal, request_id)

    # ── 时间与结束 ─────────────────────────────────────────────────────────

    @property
    def greeted(self) -> bool:
        return self.phase is not Phase.OPENING

    def unanswered(self, now: int) -> Unanswered | None:
        overdue = self.unacked.overdue(now)
        return Unanswered(overdue) if overdue else None

    def next_tick(self, now: int) -> int:
        due = min(
            self.last_heartbeat + self._limits.heartbeat_timeout_ms + 1,
            self.unacked.next_overdue(now),
        )
        if self.token_expires_at is None:
            return due
        notice = 0 if self._warned else EXPIRY_NOTICE_MS
        return min(due, self.token_expires_at - notice)

    def close(self) -> None:
        """结束；幂等。账目随之丢弃：未确认的仍在信箱里。"""
        self.phase = Phase.CLOSED
        self.unacked.clear()
        self._held = None

    def _require(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise RuntimeError(f"the session must be {phase.value}, it is {self.phase.value}")
