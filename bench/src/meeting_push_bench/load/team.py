"""父进程手里的负载进程：几个持有连接，一个发布，一个 POST；各占自己的线程等回答。

连接分给它们时，谁也不超过打开文件数的硬上限。
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, TypeVar

from meeting_push.monitoring.latency import LatencyHistogram

from ..failure import BenchError
from ..load_process import LoadProcess, Wire, shared_count
from ..open_files import SPARE_FILES, hard_limit
from ..progress import OnProgress, silent
from . import worker
from .orders import Cut, Join, Joined, Leave, Left, Look, Seen

#: 内核把新连接按散列分给共用端口的进程：多的那个会比平均多几个百分点。
_UNEVEN: Final = 1.05
_LEAST_ROOM: Final = 100

T = TypeVar("T")


def load_processes_for(sockets: int, hard_limit: int, at_least: int = 1) -> int:
    return max(at_least, math.ceil(sockets / _room(hard_limit)))


def gateways_for(sockets: int, hard_limit: int, at_least: int = 1) -> int:
    uneven = _UNEVEN if sockets > _room(hard_limit) else 1
    return max(at_least, math.ceil(sockets * uneven / _room(hard_limit)))


def most_per_gateway(sockets: int, gateways: int) -> int:
    """最多的那个网关会有几条连接；连接少时偏差大，都给它也不多。"""
    return sockets if gateways == 1 else min(sockets, sockets * 3 // (2 * gateways) + 1_000)


def shares(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """连续的 ``parts`` 份，大小至多差一；按原来的次序。"""
    each, more = divmod(len(items), parts)
    bounds = [part * each + min(part, more) for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(bounds)]


def _room(hard_limit: int) -> int:
    """:raises BenchError: 硬上限低到要成百的进程"""
    if hard_limit < SPARE_FILES + _LEAST_ROOM:
        least = SPARE_FILES + _LEAST_ROOM
        raise BenchError(
            f"the hard limit of open files is {hard_limit}; at least {least} are needed"
        )
    return hard_limit - SPARE_FILES


#: 一个命令最久这么长；正常结束远早于它。
_TIMEOUT_S: Final = 2 * 3600.0

#: （一个进程的用户，他们的序号从几起）→ 命令。
JoinOrder = Callable[[list[int], int], Join]
A = TypeVar("A", bound=Wire)


class Hand:
    """一个负载进程；一次一个命令，后来的等着。"""

    def __init__(self, counts: Any, place: int, threads: ThreadPoolExecutor) -> None:
        self._process = LoadProcess(worker.main, (counts, place))
        self._threads = threads
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: Wire, answer: type[A], on_progress: OnProgress = silent) -> A:
        """:raises BenchError: 做不成、超时、负载进程死了"""
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._process.ask, order, answer, _TIMEOUT_S, on_progress
            )

    def stop(self) -> None:
        self._process.stop()


class Team:
    """``holders`` 持有连接，``publisher``、``poster`` 施加负载。"""

    def __init__(self, hands: Sequence[Hand]) -> None:
        *self.holders, self.publisher, self.poster = hands

    @property
    def pids(self) -> list[int]:
        return [hand.pid for hand in (*self.holders, self.publisher, self.poster)]

    async def ready(self) -> None:
        """等各进程都起来了：导入要一两秒，不能算进连接的用时。"""
        await _all([*self.holders, self.publisher, self.poster], Look(), Seen)

    async def join(
        self,
        user_ids: Sequence[int],
        order: JoinOrder,
        on_progress: OnProgress = silent,
        holders: Sequence[Hand] | None = None,
    ) -> Joined:
        """分给各进程同时连；``order`` 收下各自的用户与序号的起点。"""
        hands = self.holders if holders is None else holders
        parts = shares(user_ids, len(hands))
        first = [sum(map(len, parts[:place])) for place in range(len(parts))]
        progress = _Sum(len(user_ids), on_progress)
        answers = await asyncio.gather(
            *(
                hand.ask(order(list(part), start), Joined, progress.part(hand.pid))
                for hand, part, start in zip(hands, parts, first, strict=True)
            )
        )
        return _together(answers)

    async def cut(self, holders: Sequence[Hand]) -> int:
        return sum(a.sockets for a in await _all(holders, Cut(), Left))

    async def leave(self) -> int:
        return sum(a.sockets for a in await _all(self.holders, Leave(), Left))

    async def look(self, holders: Sequence[Hand] | None = None) -> Seen:
        seen = await _all(self.holders if holders is None else holders, Look(), Seen)
        return _all_seen(seen)


async def _all(hands: Sequence[Hand], order: Wire, answer: type[A]) -> list[A]:
    return list(await asyncio.gather(*(hand.ask(order, answer) for hand in hands)))


class _Sum:
    """几个进程的进度合成一个；回调来自各自的线程。"""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total = total
        self._on_progress = on_progress
        self._done: dict[int, int] = {}

    def part(self, key: int) -> OnProgress:
        def on_progress(done: int, _total: int) -> None:
            self._done[key] = done
            self._on_progress(sum(list(self._done.values())), self._total)

        return on_progress


def _together(answers: Sequence[Joined]) -> Joined:
    failures: dict[str, int] = {}
    latency = LatencyHistogram()
    for answer in answers:
        latency = latency.merge(answer.latency)
        add_counts(failures, answer.failures)
    return Joined(
        connected=sum(answer.connected for answer in answers), failures=failures, latency=latency
    )


def _all_seen(seen: Sequence[Seen]) -> Seen:
    closes: dict[str, int] = {}
    latency = LatencyHistogram()
    for one in seen:
        latency = latency.merge(one.latency)
        add_counts(closes, one.closes)
    return Seen(
        sockets=sum(one.sockets for one in seen),
        received=sum(one.received for one in seen),
        latency=latency,
        closes=closes,
    )


def add_counts(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


@contextlib.contextmanager
def team(sockets: int, at_least: int, spare_holders: int = 0) -> Iterator[Team]:
    """够持有 ``sockets`` 条连接的负载进程；``spare_holders``：另外的几个（旁观者用）。"""
    holders = load_processes_for(sockets, hard_limit(), at_least) + spare_holders
    with hands(holders + 2) as every:
        yield Team(every)


@contextlib.contextmanager
def hands(number: int) -> Iterator[list[Hand]]:
    """计数是共用的：谁都读得到大家到达了几帧。"""
    counts = shared_count(number)
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(number))
        every: list[Hand] = []
        for place in range(number):
            every.append(Hand(counts, place, threads))
            stack.callback(every[-1].stop)
        yield every
