"""广播的 Redis 操作：共用的日志，与每个用户的游标。"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ..logs import logger
from ..model import BroadcastEntry
from ..supervision import Aside
from .claims import GenerationMark
from .keys import Keys
from .lean import LeanConnection, Script
from .link import Argument

_append: Final = Script("broadcast")
_cursor: Final = Script("broadcast_cursor")
_ack: Final = Script("here", "guard", "broadcast_ack")

#: 一次读日志至多这么多条（每条约 150 字节）。
PAGE: Final = 1_000
#: 一次 Lua 调用里至多推进这么多个游标，同 ``mailboxes.CALL_RECIPIENTS``。
CALL_CURSORS: Final = 200


class BroadcastLog:
    """``log_ttl_ms`` 是日志的寿命；游标要比它活得久，否则回来的人会被当成新人。

    错误同 ``LeanConnection.execute``。
    """

    def __init__(
        self,
        lean: LeanConnection,
        keys: Keys,
        *,
        log_ttl_ms: int,
        cursor_ttl_ms: int,
        aside: Aside,
    ) -> None:
        self._lean = lean
        self._keys = keys
        self._mark = GenerationMark(lean, keys)
        self._log_ttl_ms = log_ttl_ms
        #: 游标活多久。
        self.cursor_ttl_ms = cursor_ttl_ms
        self._aside = aside
        #: 上一次问到的：日志的一个寿命之内没有丢过数据。
        self.whole = False
        #: 这一圈里正要问的，大家共用。
        self._asking: asyncio.Task[bool] | None = None

    async def append(
        self, message_id: str, tail: bytes, *, priority: int, expires_at: int, now: int
    ) -> int:
        """记进日志并发布，原子；返回 broadcast_id。同一条再来一次什么也不做。"""
        keys = self._keys
        broadcast_id = await _append.run(
            self._lean,
            (keys.broadcast_log, keys.broadcast_ids),
            (
                *(now, self._log_ttl_ms, keys.broadcast_channel),
                *(message_id, priority, expires_at, tail),
            ),
        )
        return int(broadcast_id)

    async def entries(self) -> list[BroadcastEntry]:
        """整个日志，按次序；不含正文。别人写进来的、看不懂的略去。"""
        found: list[BroadcastEntry] = []
        start = "-"
        while True:
            page = await self._lean.execute(
                "XRANGE", self._keys.broadcast_log, start, "+", "COUNT", PAGE
            )
            found += [entry for item in page if (entry := _entry(*item)) is not None]
            if len(page) < PAGE:
                return found
            start = f"({page[-1][0].decode()}"

    async def missing(self, message_ids: Sequence[str]) -> list[str]:
        """其中日志里没有的，次序不变。"""
        if not message_ids:
            return []
        scores = await self._lean.execute("ZMSCORE", self._keys.broadcast_ids, *message_ids)
        return [i for i, score in zip(message_ids, scores, strict=True) if score is None]

    async def cursor(self, user_id: int, newest: int, now: int) -> tuple[int, set[int]]:
        """(到它为止都已确认, 其后零散确认过的)。

        还没有游标的从 ``newest`` 开始；但日志的一个寿命之内 Redis 丢过数据，就分不出他是新人还是
        游标丢了，从头开始：多给，不漏。
        """
        key, ttl_ms = self._keys.broadcast_cursor(user_id), self.cursor_ttl_ms
        flat = await _cursor.run(self._lean, [key], [ttl_ms])
        if not flat:
            lost = await self._lost(now)
            flat = await _cursor.run(self._lean, [key], [ttl_ms, 0 if lost else newest])
        return _position(flat)

    async def position(
        self, user_id: int, newest: int, now: int, found: tuple[Sequence[bytes], int]
    ) -> tuple[int, set[int]]:
        """同 ``cursor``；``found`` 是 ``arrive.lua`` 的：(HGETALL, 1 = 起点是它定下的)。

        起点所依据的是上一次问到的，所以定下之后再问：这期间丢过数据，就从头开始。
        """
        flat, begun = found
        if not flat:
            return await self.cursor(user_id, newest, now)
        if begun and await self._lost(now):
            await self._lean.execute("HSET", self._keys.broadcast_cursor(user_id), "at", 0)
            return 0, set()
        return _position(flat)

    async def _lost(self, now: int) -> bool:
        return await asyncio.shield(self.losing(now))

    def losing(self, now: int) -> asyncio.Task[bool]:
        """正在问：日志的一个寿命之内丢过数据没有；这一圈里大家共用，不许取消。"""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask(now - self._log_ttl_ms))
            self._asking.add_done_callback(_retrieve)
            asyncio.get_running_loop().call_soon(self._asked)
        return self._asking

    async def _ask(self, since: int) -> bool:
        lost = await self._mark.lost_after(since)
        self.whole = not lost
        return lost

    def _asked(self) -> None:
        self._asking = None  # 这一圈之后来的，要自己再问

    async def advance(self, acked: Sequence[tuple[int, int, int]]) -> None:
        """(user_id, broadcast_id, previous) 已确认；对每个用户原子，幂等，次序不拘。"""
        for start in range(0, len(acked), CALL_CURSORS):
            head: list[Argument] = [self._keys.prefix, self.cursor_ttl_ms]
            rows = acked[start : start + CALL_CURSORS]
            for some, spoiled in await _ack.by_master(self._lean, head, rows, self._cursor_of):
                if spoiled:
                    # 游标坏了：确认在 SQL 里，他只会再收到同一个 message_id
                    theirs = [rows[some[at]][0] for at in spoiled]
                    self._aside.note(theirs, "broadcast cursor spoiled")

    def _cursor_of(self, row: tuple[int, int, int]) -> tuple[str]:
        return (self._keys.broadcast_cursor(row[0]),)


def _retrieve(task: asyncio.Task[bool]) -> None:
    """等它的人都走了，也不算“从未取走”的异常。"""
    if not task.cancelled():
        task.exception()


def _position(flat: Sequence[bytes]) -> tuple[int, set[int]]:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return int(fields.pop(b"at")), {int(each) for each in fields}


def _entry(entry_id: bytes, flat: Sequence[bytes]) -> BroadcastEntry | None:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        return BroadcastEntry(
            broadcast_id=int(entry_id.partition(b"-")[0]),
            previous=int(fields[b"previous"]),
            message_id=fields[b"message_id"].decode(),
            priority=int(fields[b"priority"]),
            expires_at=int(fields[b"expires_at"]),
        )
    except (KeyError, ValueError):
        logger.bind(entry_id=entry_id.decode()).error("broadcast_entry_malformed")
        return None
