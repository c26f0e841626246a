"""这份 Redis 归谁：哪个数据库、第几代（与 SQL 里的对照，就知道丢过数据没有）、轮到谁做。"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from .keys import Keys, literally
from .lean import LeanConnection, Script
from .link import Argument

_mark: Final = Script("mark")
_doubt: Final = Script("doubt")


class RedisMark(NamedTuple):
    """``at``：写下记号的时刻（毫秒），即这份数据至少有多新。"""

    generation: int
    mark: int
    at: int


class GenerationMark:
    """Cluster 上各段槽里还各有一个：一个主丢了数据，也看得出来（决定 0018）。

    写的时候它们在前，全部写到才写主要的那个；所以它们只会比它新，不在、落后不止一个的就是丢了。

    ``since``：从那一代起写下的都该还在。丢了数据的新的一代从自己算起，只是换了主的照旧。
    """

    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._key = keys.delivery_generation
        self._witnesses = [keys.generation_witness(tag) for tag in lean.tags]
        self._may_switch = bool(lean.address.cluster or lean.address.sentinels)
        #: 上一次看，少了的主。
        self._missed: set[str] = set()

    async def read(self) -> RedisMark | None:
        """没有（空的 Redis）或读不懂则 None；有一段槽丢了数据的，``mark`` 是负的。"""
        values, *others = await self._lean.execute_many(
            [("HMGET", key, "generation", "mark", "at") for key in (self._key, *self._witnesses)]
        )
        try:
            mark = RedisMark(*map(int, values))
        except (TypeError, ValueError):
            return None
        return mark if all(_supports(one, mark) for one in others) else mark._replace(mark=-1)

    async def advance(self, generation: int, mark: int, now: int) -> bool:
        """推进到 ``mark``；False = Redis 已不是这一代。"""
        args = (generation, mark, now)
        if self._witnesses:
            calls = [([key], args) for key in self._witnesses]
            await _mark.run_all(self._lean, calls)
            seen = await self._lean.execute_many(
                [("HMGET", key, "generation", "mark") for key in self._witnesses]
            )
            if seen != [[b"%d" % generation, b"%d" % mark]] * len(seen):
                return False
        return bool(await _mark.run(self._lean, [self._key], args))

    async def doubt(self, generation: int) -> bool:
        """那一代写的缺了：记号写成负的，谁也推不动，等持有租约的换代次。False = 已从记录重做过。"""
        return bool(await _doubt.run(self._lean, [self._key], [generation]))

    async def begin(self, generation: int, now: int, *, lost: bool, masters: str = "") -> None:
        """开始新的一代；``lost``：因为丢了数据，记下时刻。``masters``：此刻的 ``run_id``。"""
        began = ("began", now) if lost else ()
        fields = ("generation", generation, "mark", 0, "at", now)
        await self._write(fields, ("since", generation, "masters", masters, *began))

    async def renew(self, generation: int, now: int, masters: str) -> None:
        """同样的数据，新的一代：换过主。

        记号照旧：读过它以后才有人说缺了的（``doubt``），写成 0 就再也没有人知道。
        """
        before = await self._lean.execute("HGET", self._key, "generation")
        await self._lean.execute("HSETNX", self._key, "since", before or generation)
        await self._write(("generation", generation, "at", now), ("masters", masters))

    async def _write(self, fields: Sequence[Argument], more: Sequence[Argument]) -> None:
        await self._lean.execute_many([("HSET", key, *fields) for key in self._witnesses])
        await self._lean.execute("HSET", self._key, *fields, *more)

    async def replaced(self, masters: str) -> bool | None:
        """``masters``（此刻的 ``run_id``）里少了记着的：换过主，或重启过；只多了的记下。

        第二次看见才算，头一次是 None：谁写的缺了，其间他会说（``doubt``），代次只换一次。一台 Redis
        没有人替它。
        """
        if not self._may_switch:
            return False
        raw = await self._lean.execute("HGET", self._key, "masters")
        known, now = set((raw or b"").decode().split()), set(masters.split())
        before, self._missed = self._missed, known - now
        if known != now and not self._missed:
            await self._lean.execute("HSET", self._key, "masters", masters)
        return True if before & self._missed else None if self._missed else False

    async def lost_after(self, since: int) -> bool:
        """``since`` 之后丢过数据。没有代次：刚丢，还没有人对过账。"""
        generation, began = await self._lean.execute("HMGET", self._key, "generation", "began")
        return generation is None or int(began or 0) > since

    async def run_id(self) -> str:
        """Redis 进程（各主）的身份：变了就是重启或切换过。"""
        infos = await self._lean.everywhere("INFO", "server")
        return " ".join(sorted(info.partition(b"run_id:")[2][:40].decode() for info in infos))


def _supports(values: Sequence[bytes | None], mark: RedisMark) -> bool:
    """一段槽里的与主要的相称；几台不是一起读的，差一个不算。"""
    generation, seen = values[:2]
    if generation is None or seen is None:
        return False
    return int(generation) == mark.generation and int(seen) + 1 >= mark.mark


# ── 数据库 ───────────────────────────────────────────────────────────────────

_claim: Final = Script("claim")
#: 清理时一次看多少个键；清理的人这么久没有动静，别人可以接着清。
_SCAN: Final = 1_000
_TURN_MS: Final = 60_000
#: 一个数据库的人与消息：用户的编号在另一个数据库里是别人。
_ITS_DATA: Final = (
    *("offline_messages:*", "message_log:*", "user_seq:*", "expired_messages:*"),
    *("message_body:*", "message_delivery_status:*", "broadcast_cursor:*", "broadcast_log*"),
    *("message_delivery_queue*", "priority_message_queue*", "delayed_message_queue*"),
    *("bulk_message_queue*", "delayed_bulk_queue*"),
    *(
        "dead_letter_queue*",
        "cancelled_messages",
        "evicted_messages:*",
        "mailbox_senders:*",
        "ws_ticket:*",
    ),
)


class RedisClaim:
    """错误是 ``RedisUnavailableError``。"""

    def __init__(self, lean: LeanConnection, keys: Keys) -> None:
        self._lean = lean
        self._keys = keys

    async def hold(self, database_id: str, node_id: str, lease_ms: int) -> str:
        """占住或续租；返回此刻服务着的数据库，不是我们的就没有占到。"""
        key = self._keys.database_claim
        owner: bytes = await _claim.run(self._lean, [key], [database_id, node_id, lease_ms])
        return owner.decode()

    async def release(self, node_id: str) -> None:
        """从容离开：不等租约到期。"""
        await self._lean.execute("HDEL", self._keys.database_claim, node_id)

    async def served(self) -> str:
        """Redis 里的数据是哪个数据库的；没有记过（空的，或 0.1 留下的）则空串。"""
        raw = await self._lean.execute("HGET", self._keys.delivery_generation, "database")
        return (raw or b"").decode()

    async def mark(self, database_id: str) -> None:
        """从前没有记过的，记下是我们的。"""
        await self._lean.execute("HSETNX", self._keys.delivery_generation, "database", database_id)

    async def take_over(self, database_id: str, node_id: str, generation: int) -> bool:
        """清掉先前那个数据库的，换成我们的、比 ``generation`` 新的一代；False：别人正在清。"""
        turn = self._keys.takeover_turn
        if not await self._lean.execute("SET", turn, node_id, "NX", "PX", _TURN_MS):
            return False
        try:
            if await self.served() != database_id:
                await self._wipe(turn)
                await self._renew_generation(database_id, generation)
        finally:
            await self._lean.execute("DEL", turn)
        return True

    async def _wipe(self, turn: str) -> None:
        prefix = literally(self._keys.prefix)
        for pattern in _ITS_DATA:
            # 日志的附属键把整个键名放在 hash tag 里
            for match in (f"{prefix}{pattern}", f"{{{prefix}{pattern}}}*"):
                await self._unlink(match, turn)

    async def _unlink(self, match: str, turn: str) -> None:
        cursor = b"0"
        while True:
            cursor, found = await self._lean.execute("SCAN", cursor, "MATCH", match, "COUNT", _SCAN)
            if found:
                await self._lean.unlink(found)
            await self._lean.execute("PEXPIRE", turn, _TURN_MS)
            if cursor == b"0":
                return

    async def _renew_generation(self, database_id: str, generation: int) -> None:
        key = self._keys.delivery_generation
        theirs = int(await self._lean.execute("HGET", key, "generation") or 0)
        newer = max(theirs, generation) + 1
        await self._lean.execute(
            "HSET", key, "generation", newer, "since", newer, "mark", 0, "database", database_id
        )


# ── 轮次 ─────────────────────────────────────────────────────────────────────


class Turn:
    """错误同 ``LeanConnection.execute``；``ttl_ms`` 之内没有续的，轮到别人。"""

    def __init__(self, lean: LeanConnection, key: str, ttl_ms: int) -> None:
        self._lean = lean
        self._key = key
        self._ttl_ms = ttl_ms
        self._me = secrets.token_hex(8)

    async def take(self) -> bool:
        """轮到我，则占住；已在我手里也算。"""
        return await self.take_anew() or await self._is_mine()

    async def take_anew(self) -> bool:
        """没有人占着，则占住。"""
        taken = await self._lean.execute("SET", self._key, self._me, "NX", "PX", self._ttl_ms)
        return taken is not None

    async def keep(self) -> None:
        await self._lean.execute("PEXPIRE", self._key, self._ttl_ms)

    async def give_back(self) -> None:
        if await self._is_mine():
            await self._lean.execute("DEL", self._key)

    async def _is_mine(self) -> bool:
        return bool(await self._lean.execute("GET", self._key) == self._me.encode())
