"""到 Redis Cluster 的连接：同 ``LeanConnection`` 的一张脸，各主一条精简连接（决定 0018）。

一条命令归它第一个键的槽，一批按主分开写出，回答的次序照旧。搬走了（MOVED、ASK）到说的那一台再来，
正搬到一半（TRYAGAIN）等一会儿再来：都是什么也没有执行过的。别的错误同一台 Redis：是暂时的，由调用者
再来。哪个槽归谁由 ``masters`` 盯着。
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

from ..errors import MeetingPushError, RedisUnavailableError
from .address import Node, RedisAddress
from .lean import Groups, LeanConnection
from .link import Argument, Command, RedirectedError, TryAgainError
from .masters import Master, Masters
from .slot_map import TAGS, slot_of, slot_of_command, stretch_of

#: 一条命令至多被指去别处这么多次。
MOST_MOVES: Final = 5
#: 槽正搬到一半：隔这么久再来，至多这么多次。
AGAIN_S: Final = 0.05
MOST_AGAIN: Final = 20
#: 这几种原因说明槽图可能不对了。
_STALE: Final = frozenset(
    {"cluster_down", "readonly", "master_down", "loading", "unreachable", "timeout"}
)


def lean_connection(
    address: RedisAddress, *, timeout_s: float = 5.0, name: str = "meeting-push"
) -> LeanConnection:
    """到这个地址的一条，没有连上。"""
    kind = ClusterConnection if address.cluster else LeanConnection
    return kind(address, timeout_s=timeout_s, name=name)


class _Sent:
    """发出的一条命令；``answered`` 得到回答，或我们的错误。"""

    __slots__ = ("again", "answered", "args", "moves")

    def __init__(self, args: Sequence[Argument], answered: Callable[[Any], None]) -> None:
        self.args = args
        self.answered = answered
        self.moves = 0
        self.again = 0


class _Batch:
    """一批的等待者：收齐才有结果；见 ``LeanConnection.execute_many``。"""

    __slots__ = ("answers", "future", "missing", "tolerant")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, tolerant: bool) -> None:
        self.future = future
        self.tolerant = tolerant
        self.missing = count
        self.answers: list[Any] = [None] * count

    def take(self, at: int, answer: Any) -> None:
        self.answers[at] = answer
        self.took(1)

    def took(self, count: int) -> None:
        """``answers`` 里又有了这么多个。"""
        self.missing -= count
        if self.missing == 0 and not self.future.done():
            self._finish()

    def _finish(self) -> None:
        for answer in self.answers:
            if isinstance(answer, MeetingPushError) and (answer.temporary or not self.tolerant):
                self.future.set_exception(answer)
                return
        self.future.set_result(self.answers)


class ClusterConnection(LeanConnection):
    """各主一条自己会重连的连接；同一个槽的命令按调用次序执行，不同的主之间没有次序。

    ``connected``：每个槽都有一个连着的主。一批里有一个槽没有，整批当场抛出，什么也没有发出。
    """

    tags = TAGS
    publishing = "SPUBLISH"

    def __init__(
        self, address: RedisAddress, *, timeout_s: float = 5.0, name: str = "meeting-push"
    ) -> None:
        super().__init__(address, timeout_s=timeout_s, name=name)
        #: 槽归谁；订阅也照它。
        self.masters: Final = Masters(address, timeout_s, name)
        self._following: set[asyncio.Task[None]] = set()

    # ── 生与死 ───────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        return self.masters.connected

    @property
    def reconnects(self) -> int:
        return self.masters.reconnects

    async def connect(self) -> None:
        """见 ``Masters.start``。"""
        await self.masters.start()

    async def close(self) -> None:
        following = list(self._following)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await self.masters.close()

    # ── 命令 ────────────────────────────────────────────────────────────────

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        if args[0] == "SCAN":
            return asyncio.ensure_future(self._scan(args))
        master = self._master_for(args)
        self.commands += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send(master, [_Sent(args, partial(_settle, future))])
        return future

    def execute_many(
        self, commands: Sequence[Sequence[Argument]], *, tolerant: bool = False
    ) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not commands:
            future.set_result([])
            return future
        batch = _Batch(future, len(commands), tolerant)
        by_master: defaultdict[Master, list[int]] = defaultdict(list)
        by_slot: dict[int, list[int]] = {}  # 一个人的几条同槽：主只找一次
        for at, args in enumerate(commands):
            slot = slot_of_command(args)
            places = by_slot.get(slot) if slot is not None else None
            if places is None:
                places = by_master[self._master_of(slot, args)]
                if slot is not None:
                    by_slot[slot] = places
            places.append(at)
        self.commands += len(commands)
        for master, places in by_master.items():
            self._send_share(master, batch, places, [commands[at] for at in places])
        return future

    def together(self, rows: int, keys_of: Callable[[int], Sequence[Argument]]) -> Groups:
        """同槽的一次：一条命令的几个键要同槽（决定 0018）。"""
        by_slot: defaultdict[int, tuple[list[int], list[Argument]]] = defaultdict(lambda: ([], []))
        for at in range(rows):
            keys = keys_of(at)
            some, declared = by_slot[slot_of(keys[0])]
            some.append(at)
            declared += keys
        return list(by_slot.values())

    def at_once(self, rows: int, key_of: Callable[[int], Argument]) -> Groups:
        """同一个主的一次；声明的是第一行的键。"""
        by_master: dict[Master, tuple[list[int], list[Argument]]] = {}
        for at in range(rows):
            key = key_of(at)
            master = self._master_of(slot_of(key), ())
            if (group := by_master.get(master)) is not None:
                group[0].append(at)
            else:
                by_master[master] = ([at], [key])
        return list(by_master.values())

    async def everywhere(self, *command: Argument) -> list[Any]:
        masters = self.masters.every().values()
        return list(await asyncio.gather(*(one.execute(*command) for one in masters)))

    def at(self, key: Argument) -> LeanConnection:
        """到此刻管着这个键的主的；不跟着它搬，不归调用者关。

        :raises RedisUnavailableError: 那个槽此刻没有连着的主
        """
        master = self.masters.owner(slot_of(key))
        if master is None:
            self.masters.stale.set()
            raise self.masters.missing()
        return master

    def stretch_of(self, tag: Argument) -> int:
        return stretch_of(slot_of(tag))

    def one_each(self, name_of: Callable[[int], str]) -> list[str]:
        return self.masters.one_each(name_of)

    def _master_for(self, args: Sequence[Argument]) -> Master:
        return self._master_of(slot_of_command(args), args)

    def _master_of(self, slot: int | None, args: Sequence[Argument]) -> Master:
        master = self._anyone(args) if slot is None else self.masters.owner(slot)
        if master is None:
            self.masters.stale.set()
            raise self.masters.missing()
        return master

    def _anyone(self, args: Sequence[Argument]) -> Master | None:
        """一个频道的总走一个主，发布的次序就是调用的次序；它不在才换。"""
        owner = self.masters.owner(slot_of(args[1])) if args[0] == "PUBLISH" else None
        return owner or self.masters.anyone()

    async def _scan(self, args: Sequence[Argument]) -> tuple[bytes, Any]:
        """一个主一个主地走；游标里写着走到哪个主的哪里，开头与结尾照旧是 0。"""
        told = args[1] if isinstance(args[1], bytes) else str(args[1]).encode()
        masters, cursor = list(self.masters.every().items()), b"0"
        if told != b"0":
            host, port, cursor = told.rsplit(b" ", 2)
            at = host.decode(), int(port)
            masters = [one for one in masters if one[0] >= at]
            cursor = cursor if masters and masters[0][0] == at else b"0"
        if not masters:  # 最后一个主不再是主了
            return b"0", []
        (here, master), *rest = masters
        found: Any
        cursor, found = await master.execute("SCAN", cursor, *args[2:])
        if cursor == b"0":
            if not rest:
                return b"0", found
            here = rest[0][0]
        return b"%b %d %b" % (here[0].encode(), here[1], cursor), found

    # ── 一条命令的一生 ───────────────────────────────────────────────────────

    def _send_share(
        self, master: Master, batch: _Batch, places: Sequence[int], some: Sequence[Command]
    ) -> None:
        """一批里归这个主的；要再来的才各有一个 ``_Sent``：热路上一条命令不多一个对象。"""
        try:
            future = master.send(some)
        except MeetingPushError as error:  # 刚断
            self._share(master, batch, places, some, [error] * len(places))
            return
        future.add_done_callback(partial(self._share_answered, master, batch, places, some))

    def _share_answered(
        self,
        master: Master,
        batch: _Batch,
        places: Sequence[int],
        some: Sequence[Command],
        done: asyncio.Future[list[Any]],
    ) -> None:
        error = done.exception()
        answers = done.result() if error is None else [error] * len(places)
        self._share(master, batch, places, some, answers)

    def _share(
        self,
        master: Master,
        batch: _Batch,
        places: Sequence[int],
        some: Sequence[Command],
        answers: Sequence[Any],
    ) -> None:
        taken = batch.answers
        going = 0
        for at, args, answer in zip(places, some, answers, strict=True):
            if isinstance(answer, Exception):
                one = _Sent(args, partial(batch.take, at))
                if self._goes_on(master, one, answer):
                    going += 1
                    continue
            taken[at] = answer
        batch.took(len(places) - going)

    def _send(self, master: Master, some: Sequence[_Sent]) -> None:
        try:
            future = master.send([one.args for one in some])
        except MeetingPushError as error:  # 刚断
            self._answer(master, some, [error] * len(some))
            return
        future.add_done_callback(partial(self._answered, master, some))

    def _answered(
        self, master: Master, some: Sequence[_Sent], done: asyncio.Future[list[Any]]
    ) -> None:
        error = done.exception()
        self._answer(master, some, done.result() if error is None else [error] * len(some))

    def _answer(self, master: Master, some: Sequence[_Sent], answers: Sequence[Any]) -> None:
        for one, answer in zip(some, answers, strict=True):
            if isinstance(answer, Exception) and self._goes_on(master, one, answer):
                continue
            one.answered(answer)

    def _goes_on(self, master: Master, one: _Sent, error: Exception) -> bool:
        """还没有执行，会再来。"""
        if isinstance(error, RedirectedError) and one.moves < MOST_MOVES:
            one.moves += 1
            self._follow(one, self._go(one, (error.host or master.node[0], error.port), error))
            return True
        if isinstance(error, TryAgainError) and one.again < MOST_AGAIN:
            one.again += 1
            self._follow(one, self._wait(one))
            return True
        if isinstance(error, MeetingPushError) and error.cause in _STALE:
            self.masters.stale.set()
        return False

    def _follow(self, one: _Sent, going: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(going, context=Context())
        self._following.add(task)
        task.add_done_callback(partial(self._followed, one))

    def _followed(self, one: _Sent, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if task.cancelled():
            one.answered(RedisUnavailableError("the connection to Redis was closed"))
        elif isinstance(error := task.exception(), MeetingPushError):
            one.answered(error)

    async def _go(self, one: _Sent, node: Node, told: RedirectedError) -> None:
        """到说的那一台去。正搬来的，那里要先说一声 ASKING 才收。"""
        master = await self.masters.reach(node)
        if told.asking:
            self._send(master, [_Sent(("ASKING",), _ignore), one])
        else:
            self.masters.moved(told.slot, master)
            self._send(master, [one])

    async def _wait(self, one: _Sent) -> None:
        await asyncio.sleep(AGAIN_S)
        one.moves = 0  # 从头走：正搬着的，回到原来的主又被指过来
        self._send(self._master_for(one.args), [one])


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # 等它的人走了
        return
    if isinstance(answer, MeetingPushError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _ignore(_answer: object) -> None:
    """ASKING 的回答。"""
