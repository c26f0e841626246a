"""每条新连接都要重说一遍的话：状态与关注名单。"""

from __future__ import annotations

from collections.abc import Iterable

from ..model import PresenceStatus
from ..protocol import frames


class Standing:
    """应用最后一次说的算数；连接断了也记着。"""

    def __init__(self) -> None:
        self._status: frames.StatusFrame | None = None
        self._watched: set[int] = set()

    def set_status(
        self, status: PresenceStatus, device_info: str | None
    ) -> list[frames.ClientFrame]:
        self._status = frames.StatusFrame(status=status, device_info=device_info)
        return [self._status]

    def watch(self, user_ids: Iterable[int]) -> list[frames.ClientFrame]:
        added = set(user_ids) - self._watched
        self._watched |= added
        return _watch_frames(added)

    def unwatch(self, user_ids: Iterable[int]) -> list[frames.ClientFrame]:
        removed = set(user_ids) & self._watched
        self._watched -= removed
        return [frames.UnwatchFrame(user_ids=ids) for ids in _chunks(removed)]

    def greeting(self) -> list[frames.ClientFrame]:
        """新连接上要送的。"""
        status: list[frames.ClientFrame] = [self._status] if self._status else []
        return status + _watch_frames(self._watched)


def _watch_frames(user_ids: set[int]) -> list[frames.ClientFrame]:
    return [frames.WatchFrame(user_ids=ids) for ids in _chunks(user_ids)]


def _chunks(user_ids: set[int]) -> list[list[int]]:
    ordered, size = sorted(user_ids), frames.MAX_WATCH_IDS
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
