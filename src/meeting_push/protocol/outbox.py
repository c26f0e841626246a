"""等着写给一条连接的。

发件箱：对方读得动时帧直接穿过，读不动时按字节与秒数有界地等（CON-1）。补发期间实时到来的暂存着：
按字节有界，放行时按 seq。
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from enum import Enum

from .envelope import PushKey
from .limits import Limits


class Offered(Enum):
    """``Outbox.offer`` 怎样处置了一帧。"""

    SEND = "send"  # 现在就写
    QUEUED = "queued"  # 已排队，``resume`` 之后依次写
    OVERFLOW = "overflow"  # 太慢：以 4001 关闭；这一帧没有收下


class Outbox:
    """不变式：没有阻塞时队列为空（排空的过程除外），所以次序不会乱。

    排队的是发布来的同一个 ``bytes`` 对象，多台设备共用，不复制。
    """

    __slots__ = ("_frames", "_limits", "blocked_since", "clear_way", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._frames: deque[bytes] | None = None  # 空 deque 要 600 多字节，阻塞过才建
        #: 传输停止接收的时刻；None 表示可写。
        self.blocked_since: int | None = None
        #: 既没有阻塞也没有排队：``offer`` 必答 SEND，热路径据此省一次调用。
        self.clear_way = True
        self.size = 0

    def offer(self, frame: bytes, now: int) -> Offered:
        if self.clear_way:
            return Offered.SEND
        size = self.size + len(frame)
        if size > self._limits.outbox_max_bytes or self.overdue(now):
            return Offered.OVERFLOW
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self.size = size
        return Offered.QUEUED

    def overdue(self, now: int) -> bool:
        """阻塞得太久。"""
        since = self.blocked_since
        return since is not None and now - since > self._limits.outbox_max_delay_ms

    def block(self, now: int) -> None:
        """传输的缓冲越过了高水位。"""
        if self.blocked_since is None:
            self.blocked_since = now
        self.clear_way = False

    def resume(self) -> None:
        """传输又可写了；随后用 ``pop`` 排空，直到 None 或再次阻塞。"""
        self.blocked_since = None
        self.clear_way = self._frames is None

    def pop(self) -> bytes | None:
        """下一帧；队列空了或传输又阻塞了则 None。"""
        if self.blocked_since is not None or self._frames is None:
            return None
        frame = self._frames.popleft()
        self.size -= len(frame)
        if not self._frames:
            self._frames = None
            self.clear_way = True
        return frame

    def clear(self) -> None:
        """丢掉排队的帧（连接要关了；耐久的消息还在信箱里）。"""
        self._frames = None
        self.size = 0
        self.clear_way = self.blocked_since is None


_Held = tuple[int, bytes, PushKey]


class HeldFrames:
    """补发期间暂存的实时帧：按字节有界，放行时按 seq。"""

    __slots__ = ("_frames", "_size", "newest")

    def __init__(self) -> None:
        self._frames: list[_Held] = []
        self._size = 0
        #: 收下过的最大的 seq。
        self.newest = 0

    def add(self, frame: bytes, key: PushKey, max_bytes: int) -> bool:
        """收下则 True；满了则 False，什么也不变。"""
        size = self._size + len(frame)
        if size > max_bytes:
            return False
        # 没有 seq 的跟在它前面那一帧之后
        if isinstance(key, tuple):
            order = key[0]
            self.newest = max(self.newest, order)
        else:
            order = self._frames[-1][0] if self._frames else 0
        self._frames.append((order, frame, key))
        self._size = size
        return True

    def skips_after(self, seq: int) -> bool:
        """``seq`` 之后的不是一个接一个。"""
        later = sorted(order for order, _, key in self._frames if isinstance(key, tuple))
        for each in later[bisect_right(later, seq) :]:
            if each > seq + 1:
                return True
            seq = each
        return False

    def forget_seqs(self) -> bool:
        """丢下有 seq 的；有则 True。"""
        kept = [held for held in self._frames if not isinstance(held[2], tuple)]
        forgot = len(kept) < len(self._frames)
        self._frames, self._size = kept, sum(len(frame) for _, frame, _ in kept)
        self.newest = 0
        return forgot

    def take(self) -> list[_Held]:
        """取走全部，seq 升序；同序者保持到来的次序。"""
        frames, self._frames, self._size = self._frames, [], 0
        frames.sort(key=_order)
        return frames


def _order(held: _Held) -> int:
    return held[0]
