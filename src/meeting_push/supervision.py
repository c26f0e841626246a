"""受监督的长循环：死了会被记录、计数、退避后重启，并在健康检查里看得见（LESSONS 18）。

短命的后台任务也有人看着：死因记入日志，关机时一并取消。
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Never

from loguru import logger

from .errors import MeetingPushError
from .isolation import Backoff, is_temporary
from .repeated_warning import RepeatedWarning

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 4.0
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

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_S
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
                backoff = FIRST_BACKOFF_S
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 — 抖动不需要密码学随机
            backoff = min(backoff * 2, MAX_BACKOFF_S)

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


async def periodically(
    step: Callable[[], Awaitable[object]],
    pause: Callable[[], Awaitable[object]],
    deferred: RepeatedWarning,
) -> Never:
    """一个长循环的骨架：一步，歇一歇，再来。

    依赖暂时不在：以 ``deferred`` 说一声，退避着再来。别的错误抛给监督者：循环重启，节点不就绪。
    坏的一项由 ``step`` 自己搁置（``Aside``），不该走到这里。
    """
    backoff = Backoff()
    while True:
        try:
            await step()
        except MeetingPushError as error:
            if not is_temporary(error):
                raise
            deferred.say(code=error.code, cause=error.cause)
            await backoff.wait()
        else:
            backoff.reset()
            await pause()


class Supervisor:
    """一组循环：按加入的次序启动，按相反的次序停下。"""

    def __init__(self) -> None:
        self._loops: list[SupervisedLoop] = []

    def start(self, name: str, body: Callable[[], Awaitable[None]]) -> SupervisedLoop:
        loop = SupervisedLoop(name, body)
        self._loops.append(loop)
        loop.start()
        return loop

    async def remove(self, loop: SupervisedLoop) -> None:
        """停下一个并忘掉它。"""
        self._loops.remove(loop)
        await loop.stop()

    def states(self) -> list[LoopState]:
        return [loop.state for loop in self._loops]

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
