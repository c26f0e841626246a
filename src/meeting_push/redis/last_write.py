"""换了连接之后：最后写进信箱、已得到应答的那一条还在不在。

复制是异步的：主死了，提升的副本可能缺最后几毫秒。缺的若都已送达，SQL 里没有 pending 的可查，记号
又一秒多才走一格；而 seq 会再用一遍，设备把新的当成应用过的。复制按次序：最后一条在，以前的就都在。
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .keys import Keys
from .lean import LeanConnection

#: 日志每 16 条裁一次（``deliver.lua``）：可能比上限短不了，只会长。
_SLACK: Final = 16


@dataclass(frozen=True, slots=True)
class Written:
    """``generation``：写的时候的代次。"""

    user_id: int
    message_id: str
    seq: int
    generation: int


class LastWrite:
    """每个进程一个；``log_max_entries``：续传日志的上限，裁掉了的不算没有。"""

    def __init__(self, lean: LeanConnection, keys: Keys, log_max_entries: int) -> None:
        self._lean = lean
        self._keys = keys
        self._log_max_entries = log_max_entries
        self._connection = lean.reconnects
        self._last: Written | None = None
        #: 从前的连接上最后的一条，还没有查过。
        self._doubtful: Written | None = None

    def note(self, written: Written) -> None:
        """刚得到应答的；同一条连接上后来的盖掉先前的。"""
        self._turn()
        self._last = written

    async def lost(self) -> Written | None:
        """换过连接，从前的最后一条不在了；没有换过、还在、说不准则 None。

        :raises RedisUnavailableError: 问不到；下次再问
        """
        self._turn()
        if self._doubtful is None:
            return None
        one = self._doubtful
        there = await self._is_there(one)
        self._doubtful = None
        return None if there else one

    def _turn(self) -> None:
        if self._lean.reconnects != self._connection:
            self._connection = self._lean.reconnects
            self._doubtful = self._doubtful or self._last
            self._last = None

    async def _is_there(self, one: Written) -> bool:
        log, seqs = self._keys.message_log(one.user_id), self._keys.user_seq(one.user_id)
        score, newest = await self._lean.execute_many(
            [("ZSCORE", log, one.message_id), ("HGET", seqs, "seq")], tolerant=True
        )
        if isinstance(score, Exception) or isinstance(newest, Exception):
            return True  # 键被写坏了：另有人说
        if score is not None:
            return int(float(score)) == one.seq
        return int(newest or 0) - one.seq > self._log_max_entries - _SLACK
