"""走一遍：弄坏 → 触发 → 通知 → 修好 → 恢复 → 通知，每一步多久；每一步都有期限。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from websockets.exceptions import WebSocketException

from ..errors import MeetingPushError
from . import FIRES_S, Drill
from .faults import Fault
from .system import SeenAlert, System
from .throwaway import AlreadyFiringError, DrillFailedError, Throwaway, throwaway

#: 弄坏、修好本身至多这么久。
DOING_S: Final = 60.0
NOTICE_S: Final = 10.0
READY_S: Final = 30.0
#: 弄坏之前：别的缘故在触发的，等这么久让它过去。
CALM_S: Final = 60.0
POLL_S: Final = 0.1
#: 别人的系统：规则自己的时间（窗口、``for_s``）之外，看一遍的间隔、采样再宽限这么久。
SLACK_S: Final = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """别人给的一套测试系统。"""

    url: str
    token: str
    redis_url: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """``took_s`` 从弄坏（后三步：从修好）算起；None：到时没有看到。"""

    name: str
    limit_s: float
    took_s: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """``problem``：没有走完的缘由；``skipped``：没有做，因为规则自己已经在触发。"""

    drill: Drill
    steps: Sequence[Step]
    problem: str = ""
    skipped: bool = False

    @property
    def passed(self) -> bool:
        return not self.problem and all(step.took_s is not None for step in self.steps)

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.drill.name,
            "rule": self.drill.rule,
            "passed": self.passed,
            "skipped": self.skipped,
            "problem": self.problem,
            "steps": list(self.steps),
        }


FIRED, NOTICE, MENDED, RESOLVED, TOLD = "fired", "notice", "ready", "resolved", "told"


class OwnStage:
    """自己起的：通知送到这里；问不到 API（SQL 不在）的，通知也证明它触发了。"""

    def __init__(self, drill: Drill, site: Throwaway) -> None:
        self._drill = drill
        self._site = site
        self._listed = partial(site.system.firing, drill.rule, drill.labels)
        #: 触发的那一条；此前的不算。
        self._alert_id = ""

    def fault(self) -> Fault:
        return self._drill.make(self._site)

    async def calm(self) -> None:
        """此前在触发的不算这个演练的：等它过去（别人占着机器）。

        :raises AlreadyFiringError: 没有过去
        """
        try:
            async with asyncio.timeout(CALM_S):
                await _until(self._is_gone)
        except TimeoutError:
            raise AlreadyFiringError(f"{self._drill.rule} fires already, by itself") from None
        self._site.receiver.forget()

    async def fired(self) -> object:
        found = await _first(_until(self._listed), self.noticed("firing"))
        self._alert_id = found[0].alert_id
        return found

    async def noticed(self, state: str) -> list[SeenAlert]:
        heard = self._site.receiver.heard
        return [await heard(self._drill.rule, self._drill.labels, state, self._alert_id)]

    async def mended(self) -> None:
        await self._site.mended()

    async def resolved(self) -> object:
        return await _first(_until(self._is_gone), self.noticed("resolved"))

    async def _is_gone(self) -> bool:
        return await self._listed() == []

    def logs(self, lines: int) -> str:
        return self._site.logs(lines)


class GivenStage:
    """别人的：期限由它此刻的规则来，通知看告警的时间线。"""

    def __init__(self, drill: Drill, system: System) -> None:
        assert drill.outside is not None, "refused before"
        self._make = drill.outside
        self._system = system
        self._listed = partial(system.firing, drill.rule, drill.labels)
        self._alert_id = ""

    def fault(self) -> Fault:
        return self._make(self._system)

    async def fired(self) -> object:
        found = await _until(self._listed)
        self._alert_id = found[0].alert_id
        return found

    async def noticed(self, state: str) -> object:
        return await _until(partial(self._system.told, self._alert_id, state))

    async def mended(self) -> object:
        return await _until(self._system.is_ready)

    async def resolved(self) -> object:
        async def is_gone() -> bool:
            return await self._listed() == []

        return await _until(is_gone)


Stage = OwnStage | GivenStage


async def _until(ask: Callable[[], Awaitable[T | None]]) -> T:
    while not (found := await ask()):  # noqa: ASYNC110 — 在别的进程里，只能问
        await asyncio.sleep(POLL_S)
    return found


async def _first(*waits: Coroutine[object, object, T]) -> T:
    """先有结果的那个；别的不要了。"""
    tasks = [asyncio.create_task(one) for one in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ── 一个演练 ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Limits:
    fires_s: float
    clears_s: float
    #: 触发（恢复）之后这么久之内要有通知。
    notice_s: float


class Practice:
    """走一遍；每一步都有期限，没有看到的就到此为止，弄坏的总是修好。"""

    def __init__(self, stage: Stage, limits: Limits, tell: Callable[[Step], None]) -> None:
        self._stage = stage
        self._limits = limits
        self._tell = tell
        self._began = 0.0
        self.steps: list[Step] = []

    async def run(self) -> bool:
        """True：每一步都看到了。"""
        self._began = time.monotonic()
        async with AsyncExitStack() as undoing:
            async with asyncio.timeout(DOING_S):
                await undoing.enter_async_context(self._stage.fault())
            told = await self._see(FIRED, self._limits.fires_s, self._stage.fired) and (
                await self._see(
                    NOTICE, self._limits.notice_s, lambda: self._stage.noticed("firing")
                )
            )
            self._began = time.monotonic()
            async with asyncio.timeout(DOING_S):
                await undoing.aclose()
        return (
            told
            and await self._see(MENDED, READY_S, self._stage.mended)
            and await self._see(RESOLVED, self._limits.clears_s, self._stage.resolved)
            and await self._see(
                TOLD, self._limits.notice_s, lambda: self._stage.noticed("resolved")
            )
        )

    async def _see(self, name: str, limit_s: float, what: Callable[[], Awaitable[object]]) -> bool:
        took: float | None = None
        try:
            async with asyncio.timeout(limit_s):
                await what()
            took = round(time.monotonic() - self._began, 2)
        except TimeoutError:
            pass
        step = Step(name, limit_s, took)
        self.steps.append(step)
        self._tell(step)
        return took is not None


async def practise(drill: Drill, target: Target | None, tell: Callable[[Step], None]) -> Record:
    """不抛出演练自己的失败：写在 ``problem`` 里。"""
    practice: Practice | None = None
    try:
        async with _stage(drill, target) as (stage, limits):
            practice = Practice(stage, limits, tell)
            seen = await practice.run()
            problem = "" if seen else f"not seen in time: {practice.steps[-1].name}"
            if not seen and isinstance(stage, OwnStage):
                problem += f"\n{stage.logs(8)}"
            return Record(drill, practice.steps, problem)
    except AlreadyFiringError as error:
        return Record(drill, [], error.message, skipped=True)
    except (MeetingPushError, WebSocketException, OSError, TimeoutError) as error:
        said = error.message if isinstance(error, MeetingPushError) else type(error).__name__
        return Record(drill, practice.steps if practice else [], said or "took too long")


@asynccontextmanager
async def _stage(drill: Drill, target: Target | None) -> AsyncIterator[tuple[Stage, Limits]]:
    if target is None:
        async with throwaway(drill.plan) as site:
            stage = OwnStage(drill, site)
            await stage.calm()
            yield stage, Limits(FIRES_S, drill.clears_s, NOTICE_S)
        return
    system = System(target.url, target.token, target.redis_url)
    rule = await system.rule(drill.rule)
    if not rule.enabled:
        raise DrillFailedError(f"the rule {drill.rule} is switched off there")
    if await system.firing(drill.rule, drill.labels):
        raise AlreadyFiringError(f"{drill.rule} fires there already: nothing to see")
    yield GivenStage(drill, system), Limits(rule.for_s + SLACK_S, rule.window_s + SLACK_S, SLACK_S)
