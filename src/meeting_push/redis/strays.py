"""分区的数目改过：留在从前那些分区里的，各回各家。

从前的名字可能有哪些是知道的（``QueueKeys.others``），所以不必记着从前分几份；没有改过的，看一眼都是空的。
先放进，后移出：死在中间的两处都有，成员相同，队列里只加一次；死信多一封，不少。还照从前的数目运行着的节点
照样取它们的：同一条做两遍无害（按消息 id 幂等）。
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import MalformedEnvelopeError
from ..logs import logger
from .keys import Keys, QueueKeys, home_of
from .lean import LeanConnection
from .link import Argument, Command
from .streams import QueueStreams, message_of

#: 一条里一次搬这么多项。
PAGE: Final = 500
#: 流、id、字段 → 延迟集合里的样子；None：留给更新的程序；``MalformedEnvelopeError``：读不懂。
AsDelayed = Callable[[str, bytes, dict[bytes, bytes]], bytes | None]


class Strays:
    """错误同 ``LeanConnection.execute``；每个动作幂等。"""

    def __init__(
        self,
        lean: LeanConnection,
        keys: Keys,
        partitions: Sequence[QueueKeys],
        streams: QueueStreams,
        as_delayed: AsDelayed,
    ) -> None:
        self._lean = lean
        self._letters = keys.dead_letter_queue
        self._partitions = partitions
        self._streams = streams
        self._as_delayed = as_delayed
        self._others = QueueKeys.others(keys, len(partitions))

    async def bring_home(self, now: int) -> int:
        """每条至多 ``PAGE`` 项，返回搬了几项；流里的从 ``now`` 到期的走，死信归到不分区的那条。"""
        moved = 0
        for keys in await self._left():
            for stream in keys.streams:
                moved += await self._empty_stream(stream, bulk=stream == keys.bulk, now=now)
            moved += await self._empty_delayed(keys.delayed, bulk=False)
            moved += await self._empty_delayed(keys.delayed_bulk, bulk=True)
            moved += await self._empty_letters(keys.dead_letter)
        if moved:
            logger.bind(entries=moved).info("stray_entries_moved")
        return moved

    async def _left(self) -> list[QueueKeys]:
        """里面还有东西的。"""
        commands: list[Command] = []
        for keys in self._others:
            commands += [("XLEN", stream) for stream in (*keys.streams, keys.dead_letter)]
            commands += [("ZCARD", each) for each in (keys.delayed, keys.delayed_bulk)]
        counts = iter(await self._lean.execute_many(commands))
        found = []
        for keys in self._others:
            *streams, letters, delayed, bulk = itertools.islice(counts, 6)
            # 不分区的死信一直有用：失败的收件人都在那里
            letters = 0 if keys.dead_letter == self._letters else letters
            if any((*streams, letters, delayed, bulk)):
                found.append(keys)
        return found

    # ── 各种 ────────────────────────────────────────────────────────────────

    async def _empty_stream(self, stream: str, *, bulk: bool, now: int) -> int:
        """经延迟集合回家：撤回了的到时认得出，已在队列里的不再加。"""
        done: list[tuple[bytes, bytes]] = []
        by_home: defaultdict[str, list[Argument]] = defaultdict(list)
        for entry_id, fields in await self._page(stream):
            try:
                member = self._as_delayed(stream, entry_id, fields)
            except MalformedEnvelopeError as error:
                await self._bury(stream, fields, error.message)
            else:
                if member is None:
                    continue
                by_home[self._home(member, bulk=bulk)] += [now, member]
            done.append((entry_id, fields.get(b"d", b"")))
        await self._streams.delay(by_home)
        if done:
            await self._streams.finish({stream: done})
        return len(done)

    async def _bury(self, stream: str, fields: dict[bytes, Any], reason: str) -> None:
        raw = fields.get(b"entry", b"")
        about = ("reason", reason, "queue", stream)
        await self._lean.execute("XADD", self._letters, "*", "v", 1, "entry", raw, *about)

    async def _empty_delayed(self, delayed: str, *, bulk: bool) -> int:
        flat = await self._lean.execute("ZRANGE", delayed, 0, PAGE - 1, "WITHSCORES")
        if not flat:
            return 0
        by_home: defaultdict[str, list[Argument]] = defaultdict(list)
        for member, due_at in zip(flat[::2], flat[1::2], strict=True):
            by_home[self._home(member, bulk=bulk)] += [due_at, member]
        await self._streams.delay(by_home)
        await self._lean.execute("ZREM", delayed, *flat[::2])
        return len(flat) // 2

    async def _empty_letters(self, stream: str) -> int:
        if stream == self._letters:
            return 0
        letters = await self._lean.execute("XRANGE", stream, "-", "+", "COUNT", PAGE)
        if not letters:
            return 0
        await self._lean.execute_many([("XADD", self._letters, "*", *one) for _, one in letters])
        await self._lean.execute("XDEL", stream, *(letter_id for letter_id, _ in letters))
        return len(letters)

    def _home(self, member: bytes, *, bulk: bool) -> str:
        home = home_of(message_of(member), self._partitions)
        return home.delayed_bulk if bulk else home.delayed

    async def _page(self, stream: str) -> list[tuple[bytes, dict[bytes, Any]]]:
        rows = await self._lean.execute("XRANGE", stream, "-", "+", "COUNT", PAGE)
        return [(one, dict(zip(flat[::2], flat[1::2], strict=True))) for one, flat in rows]
