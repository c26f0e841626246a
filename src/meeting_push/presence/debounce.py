"""一个被关注的人，何时该宣布他的新状态：纯的，``now`` 由调用者给（毫秒）。"""

from __future__ import annotations

from typing import Final

from ..model import PresenceStatus

#: 对同一个人，两次宣布至少隔这么久：反复切换状态不会淹没关注他的人，最后的样子总会到。
ANNOUNCE_GAP_MS: Final = 1_000


class Debounce:
    """离线要满 ``grace_ms`` 才宣布，期间回来就当没走过（LESSONS 8）；上线立刻宣布。

    状态为 None 即离线。
    """

    __slots__ = ("_announced_at", "_grace_ms", "announced", "current", "due")

    def __init__(self, state: PresenceStatus | None, grace_ms: int) -> None:
        self.announced = state
        self.current = state
        #: 何时宣布 ``current``；None 表示没有要宣布的。
        self.due: int | None = None
        self._grace_ms = grace_ms
        self._announced_at: int | None = None

    def note(self, state: PresenceStatus | None, now: int) -> None:
        """得知此刻的状态。"""
        if state == self.current:
            return
        self.current = state
        if state == self.announced:
            self.due = None
            return
        due = now + self._grace_ms if state is None else now
        if self._announced_at is not None:
            due = max(due, self._announced_at + ANNOUNCE_GAP_MS)
        self.due = due

    def announce(self, now: int) -> PresenceStatus | None:
        """到点了：返回要宣布的状态。"""
        self.announced = self.current
        self._announced_at = now
        self.due = None
        return self.announced
