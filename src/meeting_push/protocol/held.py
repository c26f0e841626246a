"""补发期间暂存的实时帧：按字节有界，放行时按 seq。"""

from __future__ import annotations

from .envelope import PushKey

_Held = tuple[int, bytes, PushKey]


class HeldFrames:
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
