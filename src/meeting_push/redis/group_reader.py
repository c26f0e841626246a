"""消费者伸进消费组的手：取、认领、看取过几次；等在一条或几条连接上。

错误同 ``LeanConnection.execute``。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from ..errors import MeetingPushError
from ..logs import logger
from .keys import DELIVERY_GROUP, QueueKeys
from .lean import LeanConnection
from .link import Argument, Command, GroupExistsError, NoGroupError

T = TypeVar("T")

#: 一项：id，字段与值相间。
RawEntry = tuple[bytes, list[bytes]]
#: 各条流与从它取到的。
Read = list[tuple[bytes, list[RawEntry]]]


class GroupReader:
    """名叫 ``name`` 的，用自己的连接：阻塞的读会占住整条连接。

    ``read``、``claim`` 在消费组不见了（FLUSHALL、切换）时抛出 ``NoGroupError``。
    """

    def __init__(
        self, connection: LeanConnection, name: str, shared: LeanConnection | None = None
    ) -> None:
        """:param shared: 从这里叫醒它"""
        self._connection = connection
        self._shared = shared or connection
        self.name = name
        self._client_id = 0
        self._claim_from: dict[str, bytes] = {}

    async def close(self) -> None:
        await self._connection.close()

    async def open(self, queues: Sequence[str]) -> None:
        """第一次取之前。"""
        self._client_id = int(await self._connection.execute("CLIENT", "ID"))
        await self.create_groups(queues)

    async def wake(self) -> None:
        """不再取了：正阻塞着的立即空手而归。"""
        await self._shared.execute("CLIENT", "UNBLOCK", self._client_id)

    async def create_groups(self, queues: Sequence[str]) -> None:
        """已有则无害；从头读，免得漏掉建组之前入队的。"""
        for queue in queues:
            with contextlib.suppress(GroupExistsError):
                await self._connection.execute(
                    "XGROUP", "CREATE", queue, DELIVERY_GROUP, "0", "MKSTREAM"
                )

    async def read(self, each: int, queues: Sequence[str], block_ms: int = 0) -> Read:
        """每条流至多 ``each`` 项还没有人取的；都空且 ``block_ms`` > 0 才等。"""
        return await self._connection.execute(*self._reading(each, queues, block_ms)) or []

    def _reading(self, each: int, queues: Sequence[str], block_ms: int) -> Command:
        block = ("BLOCK", block_ms) if block_ms else ()
        return (
            *("XREADGROUP", "GROUP", DELIVERY_GROUP, self.name, "COUNT", each, *block),
            *("STREAMS", *queues, *(">" for _ in queues)),
        )

    async def rest(self) -> Read:
        """不再取了：已经问了、回答还在路上的。"""
        return []

    async def claim(self, queue: str, idle_ms: int, count: int) -> list[RawEntry]:
        """别人取走后闲了 ``idle_ms`` 的至多 ``count`` 项；从上次看到的地方接着看。"""
        # 总从头来，前面一段还没到时的会挡住后面的
        cursor, items, *_ = await self._connection.execute(
            *("XAUTOCLAIM", queue, DELIVERY_GROUP, self.name, idle_ms),
            *(self._claim_from.get(queue, b"0"), "COUNT", count),
        )
        self._claim_from[queue] = b"0" if cursor == b"0-0" else cursor
        present = [item for item in items if item and item[1]]
        if len(present) < len(items):
            await self._forget_deleted(queue)
        return present

    async def leave(self, queue: str, entry_ids: Sequence[bytes], idle_ms: int) -> None:
        """取到手而不是给我的：当作没有取过，已闲了 ``idle_ms``，别人好认领。"""
        as_new: Sequence[Argument] = ("IDLE", idle_ms, "RETRYCOUNT", 0, "JUSTID")
        await self._connection.execute(
            "XCLAIM", queue, DELIVERY_GROUP, self.name, 0, *entry_ids, *as_new
        )

    async def times_taken(self, entries: Sequence[tuple[str, bytes]]) -> list[int]:
        """手里的 (流, id) 各被取过几次；不在手里的是 0。"""
        pending = await self._connection.execute_many(
            [("XPENDING", queue, DELIVERY_GROUP, i, i, 1, self.name) for queue, i in entries]
        )
        return [row[0][3] if row else 0 for row in pending]

    async def _forget_deleted(self, queue: str) -> None:
        """已从流里消失（有人裁了流）、只剩在待确认表里的：6.2 的 XAUTOCLAIM 会一再给出。"""
        lean = self._connection
        pending = await lean.execute("XPENDING", queue, DELIVERY_GROUP, "-", "+", 1_000, self.name)
        ids = [row[0] for row in pending]
        found = await lean.execute_many([("XRANGE", queue, one, one) for one in ids])
        gone = [one for one, entry in zip(ids, found, strict=True) if not entry]
        if gone:
            await lean.execute("XACK", queue, DELIVERY_GROUP, *gone)
            logger.bind(queue=queue, entries=len(gone)).warning("entries_vanished")


# ── 几个分区，不在一个槽 ──────────────────────────────────────────────────────

#: 到管着这个键的主，再开一条自己的连接，已连上。
OpenLine = Callable[[str], Awaitable[LeanConnection]]


class _Line(NamedTuple):
    """等在一个分区上的连接，与它在 Redis 那边的号。"""

    connection: LeanConnection
    client_id: int


class SpreadReader(GroupReader):
    """Cluster 上的：一条命令只读得了一个分区的流，所以各分区各问各的，等也各等各的。

    一次等待先到的先交出；别的分区的等待留着，到手的下一次 ``read`` 交出。一个分区不在（正在切换），
    不耽误别的：它的错误下一次才抛出。
    """

    def __init__(
        self, shared: LeanConnection, name: str, partitions: Sequence[QueueKeys], line: OpenLine
    ) -> None:
        """:param shared: 不等的都走它；不归这里关"""
        super().__init__(shared, name)
        self._partitions = partitions
        self._homes = {stream: at for at, one in enumerate(partitions) for stream in one.streams}
        self._open_line = line
        self._lines: dict[int, _Line] = {}
        self._leaving = False
        self._waits: dict[int, asyncio.Task[Read]] = {}
        self._late: MeetingPushError | None = None

    async def close(self) -> None:
        waits, self._waits = list(self._waits.values()), {}
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        for at in list(self._lines):
            await self._leave_line(at)

    async def open(self, queues: Sequence[str]) -> None:
        await self.create_groups(queues)

    async def wake(self) -> None:
        self._leaving = True
        await self._each([self._wake(at) for at in self._lines if at in self._waits])

    async def _wake(self, at: int) -> None:
        master = self._shared.at(self._partitions[at].delivery)
        await master.execute("CLIENT", "UNBLOCK", self._lines[at].client_id)

    async def create_groups(self, queues: Sequence[str]) -> None:
        await self._each([super(SpreadReader, self).create_groups((one,)) for one in queues])

    async def read(self, each: int, queues: Sequence[str], block_ms: int = 0) -> Read:
        self._raise_late()
        by_home: defaultdict[int, list[str]] = defaultdict(list)
        for queue in queues:
            by_home[self._homes[queue]].append(queue)
        if not block_ms:
            found = await self._each([self._ask(each, some) for some in by_home.values()])
            return [one for reply in found for one in reply] + self._arrived()
        for at, some in by_home.items():
            if at not in self._waits:
                waiting = self._in_group(some, self._wait(at, self._reading(each, some, block_ms)))
                self._waits[at] = asyncio.create_task(waiting, name=f"wait:{self.name}:{at}")
        await asyncio.wait(self._waits.values(), return_when=asyncio.FIRST_COMPLETED)
        return self._arrived()

    async def _ask(self, each: int, queues: Sequence[str]) -> Read:
        return await self._in_group(queues, super().read(each, queues))

    async def _in_group(self, queues: Sequence[str], work: Awaitable[list[T]]) -> list[T]:
        """消费组不见了的就地重建：别的分区取到的不能丢下。"""
        try:
            return await work
        except NoGroupError:
            await super().create_groups(queues)
            return []

    async def _wait(self, at: int, reading: Command) -> Read:
        """出了错就挂断：换了主、槽搬走了，下一次到此刻管着它的那台去。"""
        try:
            line = self._lines.get(at) or await self._line(at)
            return [] if self._leaving else await line.connection.execute(*reading) or []
        except MeetingPushError:
            await self._leave_line(at)
            raise

    async def _line(self, at: int) -> _Line:
        connection = await self._open_line(self._partitions[at].delivery)
        try:
            line = _Line(connection, int(await connection.execute("CLIENT", "ID")))
        except BaseException:
            await connection.close()
            raise
        self._lines[at] = line
        return line

    async def _leave_line(self, at: int) -> None:
        line = self._lines.pop(at, None)
        if line is not None:
            await line.connection.close()

    def _arrived(self) -> Read:
        done = [at for at, wait in self._waits.items() if wait.done()]
        return [one for reply in self._kept(self._taken(done)) for one in reply]

    def _taken(self, places: Iterable[int]) -> list[Read | BaseException]:
        waits = [self._waits.pop(at) for at in places]
        return [wait.exception() or wait.result() for wait in waits]

    async def rest(self) -> Read:
        if self._waits:
            await asyncio.wait(self._waits.values())
        return self._arrived()

    async def claim(self, queue: str, idle_ms: int, count: int) -> list[RawEntry]:
        self._raise_late()
        claiming = self._in_group((queue,), super().claim(queue, idle_ms, count))
        [found] = await self._each([claiming]) or [[]]
        return found

    # ── 一个分区不在 ─────────────────────────────────────────────────────────

    async def _each(self, works: Sequence[Awaitable[T]]) -> list[T]:
        return self._kept(await asyncio.gather(*works, return_exceptions=True))

    def _kept(self, answers: Iterable[T | BaseException]) -> list[T]:
        """成了的；没有成的记下一个，下一次抛出。"""
        kept: list[T] = []
        for answer in answers:
            if isinstance(answer, MeetingPushError):
                self._late = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                kept.append(answer)
        return kept

    def _raise_late(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            raise late
