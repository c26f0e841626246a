"""受监督的长循环：死了会被记录、计数、退避后重启，并在健康检查里看得见（LESSONS 18）。

短命的后台任务也有人看着：死因记入日志，关机时一并取消。

一批里坏了一项，别的照做：一再对半分开，直到只剩坏的那一项，把它搁置。

坏的一项是数据的错（别人写坏的键、存不下的值、读不懂的行），重来也没有用；依赖暂时不在不是它的错，
整批留着，等一等再来（``Backoff``）。
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Never, TypeVar

from .errors import MeetingPushError, UnavailableError
from .logs import RepeatedWarning, logger

FIRST_RESTART_S = 0.1
MAX_RESTART_S = 4.0
#: 活过这么久才算恢复，退避从头计。
STABLE_AFTER_S = 30.0
#: 重启之后活过这么久，健康检查就不再说它；加上退避，好了 10 秒之内就绪。
SETTLED_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class LoopState:
    """一个循环的快照；``failing`` 表示上次异常退出后还没有稳定下来。"""

    name: str
    running: bool
    failing: bool
    restarts: int
    #: 上次为什么死的；没死过则空。
    why: str = ""


class SupervisedLoop:
    """让 ``body`` 一直运行；``body`` 正常返回即结束，抛出则退避（满抖动）后重启。"""

    def __init__(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._body = body
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._restarts = 0
        self._why = ""

    @property
    def state(self) -> LoopState:
        running = self._task is not None and not self._task.done()
        return LoopState(self.name, running, self._failing, self._restarts, self._why)

    def start(self) -> None:
        if self._task is not None:
            raise RuntimeError(f"loop {self.name} was started already")
        self._task = asyncio.create_task(self._run(), name=f"loop:{self.name}")

    async def stop(self) -> None:
        """取消并等它退出；可重复调用。"""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def restart(self, within_s: float) -> bool:
        """取消这一生，从头来过，算一次重启；False：它 ``within_s`` 里没有理会取消。"""
        task = self._task
        assert task is not None, "not started"
        task.cancel()
        _, pending = await asyncio.wait([task], timeout=within_s)
        if pending:
            return False
        if self._task is task:  # 没有人在这期间停下它
            self._restarts += 1
            self._task = asyncio.create_task(self._run(), name=f"loop:{self.name}")
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_RESTART_S, MAX_RESTART_S)
        while True:
            started = loop.time()
            settle = loop.call_later(SETTLED_AFTER_S, self._settled)
            try:
                await self._body()
                return
            except Exception as error:  # noqa: BLE001 — 监督者的职责就是接住一切
                self._failing = True
                self._restarts += 1
                self._note(error)
            finally:
                settle.cancel()
            if loop.time() - started > STABLE_AFTER_S:
                backoff.reset()
            await backoff.wait()

    def _note(self, error: Exception) -> None:
        """预料之中的错误（键的类型不对、配置不对）自己说得清楚，不必带回溯。"""
        log = logger.bind(loop=self.name, restarts=self._restarts)
        if isinstance(error, MeetingPushError):
            self._why = f"{error.cause}: {error.message}"
            log.bind(code=error.code, cause=error.cause, reason=error.message).error("loop_died")
        else:
            self._why = type(error).__name__
            log.opt(exception=error).error("loop_died")

    def _settled(self) -> None:
        self._failing = False


_deferred: Final = RepeatedWarning("loop_deferred")


async def periodically(
    step: Callable[[], Awaitable[object] | None],
    pause: Callable[[], Awaitable[object]],
    deferred: RepeatedWarning = _deferred,
) -> Never:
    """一个长循环的骨架：一步（不等谁的可以是同步的），歇一歇或等谁来唤醒，再来。

    第一步不等。依赖暂时不在：以 ``deferred`` 说一声，退避着再来。别的错误抛给监督者：循环重启，
    节点不就绪。坏的一项由 ``step`` 自己搁置（``Aside``），不该走到这里。
    """
    backoff = Backoff()
    while True:
        try:
            if (working := step()) is not None:
                await working
        except MeetingPushError as error:
            if not is_temporary(error):
                raise
            deferred.say(code=error.code, cause=error.cause)
            await backoff.wait()
        else:
            backoff.reset()
            await pause()


async def woken(event: asyncio.Event, within_s: float | None) -> None:
    """等到 ``event`` 置位，至多 ``within_s``；由取走要做的那一步清它。

    不用 ``wait_for``：Python 3.11 的在置位的同一刻会吞掉取消，循环就停不下来。
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()


async def summoned(
    event: asyncio.Event, within_s: float | None = None, gather_s: float = 0
) -> None:
    """同 ``woken``，并清它；再歇 ``gather_s``：攒下的成为一批。"""
    await woken(event, within_s)
    event.clear()
    if gather_s:
        await asyncio.sleep(gather_s)


class Supervisor:
    """一组循环：按加入的次序启动，按相反的次序停下。"""

    def __init__(self) -> None:
        self._loops: list[SupervisedLoop] = []
        self._left: Counter[str] = Counter()

    def start(self, name: str, body: Callable[[], Awaitable[None]]) -> SupervisedLoop:
        loop = SupervisedLoop(name, body)
        self._loops.append(loop)
        loop.start()
        return loop

    async def remove(self, loop: SupervisedLoop) -> None:
        """停下一个并忘掉它。"""
        self._loops.remove(loop)
        self._left[loop.name] += loop.state.restarts
        await loop.stop()

    def states(self) -> list[LoopState]:
        return [loop.state for loop in self._loops]

    def restarts(self) -> Counter[str]:
        """各循环死过几次，连同不再有的；只增。"""
        restarts = self._left.copy()
        for loop in self._loops:
            restarts[loop.name] += loop.state.restarts
        return restarts

    async def stop(self) -> None:
        while self._loops:
            await self._loops.pop().stop()


class Tasks:
    """asyncio 只弱引用任务，没人拿着的会被回收；这里拿着。"""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.bind(task=task.get_name()).opt(exception=error).error("task_died")

    async def wait(self, timeout_s: float) -> None:
        """等此刻的任务自己结束，至多 ``timeout_s``；不取消。"""
        if self._running:
            await asyncio.wait(list(self._running), timeout=timeout_s)

    async def close(self) -> None:
        """取消全部并等它们退出。"""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
#: 一行日志里至多列出这么多个搁置的。
LOGGED_ITEMS: Final = 20
#: 一项也没有成，连着搁置了这么多：坏的不是这些项，是这条路。
BROKEN_AFTER: Final = 100

Item = TypeVar("Item")


class Backoff:
    """依赖不在时等多久：封顶，满抖动（LESSONS 1）；成了一次就从头计。"""

    def __init__(self, first_s: float = FIRST_BACKOFF_S, most_s: float = MAX_BACKOFF_S) -> None:
        self._first_s = self._next_s = first_s
        self._most_s = most_s

    async def wait(self) -> None:
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 — 抖动不需要密码学随机

    def reset(self) -> None:
        self._next_s = self._first_s


def is_temporary(error: BaseException) -> bool:
    """等一等可能就好：依赖不在、满了、太频繁。"""
    return isinstance(error, MeetingPushError) and error.temporary


class Aside:
    """一个循环搁置坏项的地方：计数，记下是哪几项、为什么。"""

    def __init__(self, name: str) -> None:
        self.name = name
        #: 搁置了几项，只增。
        self.count = 0
        self._in_a_row = 0
        self._said = RepeatedWarning("items_set_aside")

    async def isolate(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[object]],
        name_of: Callable[[Item], object] = str,
    ) -> list[Item]:
        """对 ``items`` 做 ``work``，返回搁置的几项（已计数、已记下）。

        ``work`` 对同一项做两遍须无害。一项坏了，代价是多做 2·log₂(n) 次。

        :raises MeetingPushError: 暂时的；不知道做了哪些，整批再来
        """
        spoiled: list[tuple[Item, Exception]] = []
        await self._halve(items, work, spoiled)
        if spoiled:
            self._in_a_row += len(spoiled)
            self.note([name_of(item) for item, _ in spoiled], spoiled[0][1])
        return [item for item, _ in spoiled]

    def note(self, names: Sequence[object], error: Exception | str) -> None:
        """搁置了这几项；别处（Lua、管道）已经分开的，直接来这里记。"""
        self.count += len(names)
        self._said.say(
            loop=self.name,
            items=[str(name)[:200] for name in names[:LOGGED_ITEMS]],
            count=len(names),
            error=error if isinstance(error, str) else f"{type(error).__name__}: {error}"[:500],
        )

    async def check(self) -> None:
        """:raises UnavailableError: 一直在搁置，没有一项做成"""
        if self._in_a_row >= BROKEN_AFTER:
            raise UnavailableError(f"{self.name}: everything is set aside")

    async def _halve(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[object]],
        spoiled: list[tuple[Item, Exception]],
    ) -> None:
        if not items:
            return
        try:
            await work(items)
        except Exception as error:
            if is_temporary(error):
                raise
            if len(items) == 1:
                spoiled.append((items[0], error))
                return
            middle = len(items) // 2
            await self._halve(items[:middle], work, spoiled)
            await self._halve(items[middle:], work, spoiled)
        else:
            self._in_a_row = 0


class Asides:
    """一个进程里的全部 ``Aside``，给观察它们的人。"""

    def __init__(self) -> None:
        self._all: dict[str, Aside] = {}

    def of(self, name: str) -> Aside:
        return self._all.setdefault(name, Aside(name))

    def __iter__(self) -> Iterator[Aside]:
        return iter(list(self._all.values()))

    async def check(self) -> None:
        """:raises UnavailableError: 见 ``Aside.check``"""
        for one in self:
            await one.check()


Result = TypeVar("Result")


async def patiently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """依赖不可用就退避重试；上限由调用者的 timeout 或连接的寿命给出。"""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except UnavailableError:
            await backoff.wait()
