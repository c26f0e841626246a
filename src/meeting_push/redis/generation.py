"""Redis 里的代次与记号：与 SQL 里的对照，就知道 Redis 有没有丢过数据。"""

from __future__ import annotations

from typing import Final, NamedTuple

from .connection.lean import LeanConnection
from .keys import Keys
from .scripts import Script

_mark: Final = Script("mark")


class RedisMark(NamedTuple):
    """``at``：写下记号的时刻（毫秒），即这份数据至少有多新。"""

    generation: int
    mark: int
    at: int


class GenerationMark:
    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._key = keys.delivery_generation

    async def read(self) -> RedisMark | None:
        """没有（空的 Redis）或读不懂则 None。"""
        values = await self._lean.execute("HMGET", self._key, "generation", "mark", "at")
        try:
            return RedisMark(*map(int, values))
        except (TypeError, ValueError):
            return None

    async def advance(self, generation: int, mark: int, now: int) -> bool:
        """推进到 ``mark``；False = Redis 已不是这一代。"""
        return bool(await _mark.run(self._lean, [self._key], [generation, mark, now]))

    async def begin(self, generation: int, now: int, *, lost: bool) -> None:
        """开始新的一代；``lost``：因为丢了数据，记下时刻。"""
        began = ("began", now) if lost else ()
        await self._lean.execute(
            "HSET", self._key, "generation", generation, "mark", 0, "at", now, *began
        )

    async def lost_after(self, since: int) -> bool:
        """``since`` 之后丢过数据。没有代次：刚丢，还没有人对过账。"""
        generation, began = await self._lean.execute("HMGET", self._key, "generation", "began")
        return generation is None or int(began or 0) > since

    async def run_id(self) -> str:
        """Redis 进程的身份：变了就是重启或切换过。"""
        info: bytes = await self._lean.execute("INFO", "server")
        return info.partition(b"run_id:")[2][:40].decode()
