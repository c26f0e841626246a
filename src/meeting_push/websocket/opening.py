"""一条连接的开始与补发：先订阅，后读信箱；暂存实时帧，推完信箱再按 seq 放行。

也许漏过的，以后再补上：每条连接从自己的位置读起（DLV-5，LESSONS 31）。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from heapq import merge
from itertools import groupby
from typing import Final, NamedTuple, Protocol
from weakref import WeakValueDictionary

from ..contracts import (
    Arrivals,
    Broadcasts,
    Channels,
    Mailbox,
    Opened,
    Quiet,
    Seats,
    Unfinished,
)
from ..errors import MeetingPushError, UnavailableError
from ..mailbox_model import MailboxEntry, MailboxView, ResumePoint
from ..model import BroadcastEntry, BroadcastView
from ..protocol.envelope import BATCH_MAX_MESSAGES, batch, batch_parts, peek
from ..protocol.frames import Gap, encode
from ..protocol.session import Phase
from ..supervision import Tasks, patiently
from .admission import Deadlines, Places
from .line import UserConnection
from .lines import EdgeCounters, Registry

#: 同时读信箱的连接数：满的一只要问一千条的优先级，而投递、确认的命令在同一条 Redis 连接上排队。
#: 多于 MAX_LOADS：先让每个人得到 welcome（等久了是 4007），再慢慢补发。
MAX_READS: Final = 8
#: 同时取正文的连接数：一次 50 条约半毫秒 CPU，多了，事件循环的一圈就长，别人的每一步都等一圈；
#: 又可有几 MB，重连风暴时不能人人都拿着。
MAX_LOADS: Final = 4

Entry = MailboxEntry | BroadcastEntry


class Sources(NamedTuple):
    """一条连接开始时要问的各处。"""

    channels: Channels
    arrivals: Arrivals
    mailbox: Mailbox
    broadcasts: Broadcasts
    seats: Seats


class OpeningHost(Protocol):
    """``Opener`` 的主人（``ConnectionManager``）；都是同步的，不得抛出。"""

    counters: EdgeCounters
    clock: Callable[[], int]

    def on_welcomed(self, connection: UserConnection, /) -> None: ...

    def on_no_seat(self, connection: UserConnection, /) -> None: ...

    def on_open_timeout(self, connection: UserConnection, /) -> None: ...

    def give_up(self, connection: UserConnection, error: Exception, /) -> None: ...

    def spawn(self, work: Coroutine[object, object, None], /) -> asyncio.Task[None]: ...


class Opener:
    """订阅，占座，读信箱与广播，welcome，补发。多数人没有什么在等：几个回调就开好了，没有任务；
    有什么要等、要补、要重来的另起一个（``open``）。断开时不留下任何东西。

    welcome 在读广播之后，所以 welcome 之后的广播都有他的份。
    """

    def __init__(self, host: OpeningHost, sources: Sources, timeout_s: float) -> None:
        self._host = host
        self._channels, self._arrivals, self._mailbox, self._broadcasts, self._seats = sources
        self._timeout_s = timeout_s
        #: 几个回调里就开好的那些，各最晚何时。
        self.deadlines = Deadlines(timeout_s, host.on_open_timeout)
        self._counters, self._clock = host.counters, host.clock
        self._reads = Places(MAX_READS)
        self._loads = asyncio.Semaphore(MAX_LOADS)
        #: 一个人的各台设备一个一个地取：他的两百台重连，占不住全部的地方（A7）。
        self._own_loads = WeakValueDictionary[int, asyncio.Lock]()

    # ── 顺利的 ────────────────────────────────────────────────────────────

    def begin(self, connection: UserConnection) -> None:
        """立即返回；会话须已认证、已登记。"""
        self.deadlines.start(connection)
        self._listen(connection)

    def _listen(self, connection: UserConnection) -> None:
        """订阅好了才读：此后发布的都会到达。"""
        waiting = self._channels.subscribing(connection.user_id)
        if waiting is None:
            self._reads.enter(partial(self._ask, connection))
        else:
            waiting.add_done_callback(partial(self._listening, connection))

    def _listening(self, connection: UserConnection, _subscribed: object) -> None:
        if connection.closing_since is None:
            self._listen(connection)

    def _ask(self, connection: UserConnection) -> None:
        if connection.closing_since is not None:
            self._reads.leave()
            return
        connection.session.missed = False  # 此前漏的都会在这次读取里
        try:
            self._arrivals.begin(
                connection.newcomer(), self._broadcasts.newest, partial(self._answered, connection)
            )
        except MeetingPushError:
            self._answered(connection, Unfinished(None))

    def _answered(self, connection: UserConnection, answer: Quiet | Unfinished) -> None:
        if connection.closing_since is not None:
            self._reads.leave()
            return
        self.deadlines.stop(connection)
        if isinstance(answer, Unfinished):  # 占着地方，直到读完
            leave = self._reads.once()
            task = connection.task = self._host.spawn(self._finish(connection, answer, leave))
            task.add_done_callback(leave)
        else:
            self._reads.leave()
            self._welcome_quiet(connection, answer)

    def _welcome_quiet(self, connection: UserConnection, quiet: Quiet) -> None:
        try:
            self._seats.took(connection.user_id, connection.connection_id, quiet.seat)
            view = MailboxView(quiet.epoch, quiet.seq, (), resumed=quiet.resumed)
            self._welcome(connection, Opened(view, BroadcastView((), quiet.newest)))
            if connection.session.missed:
                connection.task = self._host.spawn(self._flush_alone(connection, view))
            elif connection.session.phase is Phase.FLUSHING:
                connection.send_all(connection.session.finish(view, self._clock()))
        except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
            self._host.give_up(connection, error)

    def _welcome(self, connection: UserConnection, opened: Opened) -> None:
        connection.session.broadcasts.read(opened.broadcasts)
        connection.welcome(opened.mailbox)
        self._host.on_welcomed(connection)

    # ── 其余的 ────────────────────────────────────────────────────────────

    async def open(self, connection: UserConnection) -> None:
        """从头开始；返回时已是实时，或已关闭。Redis 不可用时开着 socket 重试。"""
        await self._finish(connection, Unfinished(None), lambda: None)

    async def _finish(
        self, connection: UserConnection, unfinished: Unfinished, leave: Callable[[], None]
    ) -> None:
        """``leave``：读完了，让出读的地方。"""
        try:
            async with asyncio.timeout(self._timeout_s):
                opened = await self._first_view(connection, unfinished, leave)
            if opened is None:
                self._host.on_no_seat(connection)
                return
            self._welcome(connection, opened)
            await self.flush(connection, opened.mailbox)
        except TimeoutError:
            self._host.on_open_timeout(connection)
        except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
            self._host.give_up(connection, error)
        connection.let_go()

    async def _first_view(
        self, connection: UserConnection, unfinished: Unfinished, leave: Callable[[], None]
    ) -> Opened | None:
        who = connection.newcomer()

        async def arrive() -> Opened | None:
            await self._subscribed(connection.user_id)
            connection.session.missed = False  # 此前漏的都会在这次读取里
            async with self._reads:
                return await self._arrivals.finish(who, Unfinished(None))

        with contextlib.suppress(UnavailableError):
            try:
                if unfinished.answer is not None:
                    return await self._arrivals.finish(who, unfinished)
            finally:
                leave()
        return await patiently(arrive)

    async def _subscribed(self, user_id: int) -> None:
        while (waiting := self._channels.subscribing(user_id)) is not None:
            await asyncio.wait([waiting])

    async def _flush_alone(self, connection: UserConnection, view: MailboxView) -> None:
        try:
            await self.flush(connection, view)
        except Exception as error:  # noqa: BLE001 — 见上
            self._host.give_up(connection, error)
        connection.let_go()

    async def catch_up(self, connection: UserConnection) -> None:
        """补上这条连接没收到过的；会话须已在 FLUSHING。"""
        self._counters.rereads += 1
        await self.flush(connection, await self._read_again(connection))

    async def flush(self, connection: UserConnection, view: MailboxView) -> None:
        """推完 ``view`` 里没推过的，转入 LIVE；途中漏了什么就再读一遍。"""
        session = connection.session
        await self._push_unsent(connection, view)
        while session.missed and session.phase is Phase.FLUSHING:
            view = await self._read_again(connection)
            await self._push_unsent(connection, view)
        if session.phase is Phase.FLUSHING:
            connection.send_all(session.finish(view, self._clock()))

    async def _read_again(self, connection: UserConnection) -> MailboxView:
        """从它自己的位置读起，同续传：只读信箱，别的设备期间确认了的就再也不来（LESSONS 31）。"""
        session = connection.session
        view = await self._read(connection, session.position())
        connection.send_all(session.reread(view))
        return view

    async def _push_unsent(self, connection: UserConnection, view: MailboxView) -> None:
        broadcasts = connection.session.broadcasts.take()
        if not view.entries and not broadcasts:
            return
        entries = connection.session.unsent(view.entries)
        for run in _runs(entries, broadcasts) if broadcasts else [entries]:
            await self._push_run(connection, run)

    async def _push_run(self, connection: UserConnection, run: Sequence[Entry]) -> None:
        """堵住了的，余下的不握着，写得动了再读：几百条不读的连接，各握几 MB 就是几百 MB（A7）。"""
        start, most = 0, BATCH_MAX_MESSAGES
        while start < len(run):
            await connection.writable()
            if connection.session.phase is not Phase.FLUSHING:
                return  # 等待时关闭了
            entries = run[start : start + most]
            pushed = await self._push_part(connection, entries)
            most = min(2 * most, BATCH_MAX_MESSAGES) if pushed == len(entries) else pushed
            start += pushed

    async def _push_part(self, connection: UserConnection, entries: Sequence[Entry]) -> int:
        """推了前面几条，至少一条；``entries`` 全是信箱里的，或全是广播。"""
        session, pushed = connection.session, 0
        messages = await self._load(connection.user_id, entries)
        lost = len(messages) < len(entries)
        if lost:
            self._announce_lost(connection, entries, messages)
        for part in batch_parts(messages):
            if pushed and not lost and connection.outbox.blocked_since is not None:
                return pushed
            if pushed:
                await asyncio.sleep(0)  # 一份 256 KB：别人的先来
            await connection.writable()
            if session.phase is not Phase.FLUSHING:
                break
            pushed += len(part)
            self._counters.flushed_messages += len(part)
            now = self._clock()
            broadcast = isinstance(entries[0], BroadcastEntry)
            connection.send(batch(part) if broadcast else session.batch(part, now), now)
        return len(entries)

    def _announce_lost(
        self, connection: UserConnection, entries: Sequence[Entry], messages: Sequence[bytes]
    ) -> None:
        """读信箱之后才过期的（DLV-5）；广播不占 seq，没有洞。"""
        loaded = {key[0] for message in messages if (key := peek(message)) is not None}
        for entry in entries:
            if isinstance(entry, MailboxEntry) and entry.seq not in loaded:
                gap = Gap(from_seq=entry.seq, to_seq=entry.seq, count=1, reason="expired")
                connection.send(encode(gap), self._clock())

    async def _read(self, connection: UserConnection, resume: ResumePoint | None) -> MailboxView:
        session = connection.session

        async def read() -> MailboxView:
            await self._subscribed(connection.user_id)
            session.missed = False  # 此前漏的都会在这次读取里
            async with self._reads:
                view = await self._mailbox.open(connection.user_id, resume)
            assert session.broadcasts.upto is not None, "the first view read the broadcasts"
            session.broadcasts.read(self._broadcasts.after(session.broadcasts.upto))
            return view

        return await patiently(read)

    async def _load(self, user_id: int, entries: Sequence[Entry]) -> list[bytes]:
        own = self._own_loads.setdefault(user_id, asyncio.Lock())

        async def load() -> list[bytes]:
            async with own, self._loads:
                mail = [each for each in entries if isinstance(each, MailboxEntry)]
                if mail:
                    return await self._mailbox.load(mail)
                return await self._broadcasts.load(
                    [each for each in entries if isinstance(each, BroadcastEntry)]
                )

        return await patiently(load)


def _urgency(entry: Entry) -> int:
    return -entry.priority


def _runs(
    entries: Sequence[MailboxEntry], broadcasts: Sequence[BroadcastEntry]
) -> Iterator[list[Entry]]:
    """按优先级合成一列，再切成同类相连的几段；同级的先私信，后广播。"""
    ordered = sorted(broadcasts, key=_urgency)
    merged: Iterator[Entry] = merge(entries, ordered, key=_urgency)
    for _, run in groupby(merged, type):
        yield list(run)


#: 同时重读的连接数：Redis 刚回来，不要一拥而上。
CONCURRENCY: Final = 32


class CatchUp:
    """``give_up``：补不成的，关闭它；同步，不得抛出。"""

    def __init__(
        self,
        opener: Opener,
        registry: Registry,
        tasks: Tasks,
        give_up: Callable[[UserConnection, Exception], None],
    ) -> None:
        self._opener = opener
        self._registry = registry
        self._tasks = tasks
        self._give_up = give_up

    async def everybody(self) -> None:
        """见 ``ConnectionManager.reread_all``。"""
        everybody = list(self._registry)
        for each in everybody:
            each.session.broadcasts.fall_behind()
        connections = iter(everybody)

        async def worker() -> None:
            for connection in connections:
                await self.one(connection)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())

    async def one(self, connection: UserConnection) -> None:
        phase = connection.session.phase
        if phase is Phase.LIVE:
            connection.session.hold()
            await asyncio.wait([self.start(connection)])
        else:
            connection.session.missed = True  # 正在补发的那个任务会再读一次

    def start(self, connection: UserConnection) -> asyncio.Task[None]:
        """立即返回；会话须已在 FLUSHING。"""

        async def catch_up() -> None:
            try:
                await self._opener.catch_up(connection)
            except Exception as error:  # noqa: BLE001 — 任何错都不能留下一条半开的连接
                self._give_up(connection, error)
            connection.let_go()

        task = connection.task = self._tasks.spawn(catch_up(), "ws_catch_up")
        return task
