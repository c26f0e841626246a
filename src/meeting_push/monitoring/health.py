"""就绪：本角色自己做的事做得成才算（LESSONS 20、25）；别的坏了写在 ``degraded`` 里。

检查在旁边的循环里一秒做一遍，``/readyz`` 只读结果：探针再密、依赖再慢，它都立刻回答，也不会
自己变成负载。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from ..errors import MeetingPushError
from ..supervision import LoopState, periodically

#: 多久检查一遍；一项至多等多久。坏了到不就绪最多 1 + 2 + 1 + 2 秒，契约是 10 秒。
EVERY_S: Final = 1.0
#: 启动以来还没有就绪过时：订阅晚几毫秒，不必为它多等一秒。
STARTING_S: Final = 0.05
CHECK_TIMEOUT_S: Final = 2.0
#: 没有循环在检查时（内嵌的应用还没启动它），结果在这么久之内共用。
CACHE_S: Final = 0.5

#: 正常返回即好；抛出 MeetingPushError 即坏，``cause`` 与消息就是原因。
Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """``failing``：本角色做不成的部件 → 原因，空即就绪；``degraded``：别的。"""

    failing: dict[str, str]
    degraded: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not self.failing

    def as_dict(self) -> dict[str, object]:
        return {"ready": self.ready, "failing": self.failing, "degraded": self.degraded}


class _Part:
    """一项检查与它最近的结果。"""

    def __init__(self, check: Check, essential: bool) -> None:
        self.essential = essential
        self.reason: str | None = "starting: not checked yet"
        self._check = check
        self._checked = False
        self._timeouts = 0

    @property
    def well(self) -> bool | None:
        return self.reason is None if self._checked else None

    async def run(self) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._check()
        except MeetingPushError as error:
            self.reason, self._timeouts = f"{error.cause}: {error.message}", 0
        except TimeoutError:
            # 一次没答上来可能只是忙：接连两次才算坏，否则忙的时候就绪检查自己成了故障
            self._timeouts += 1
            if self._timeouts > 1 or self.reason:
                self.reason = "timeout: no answer in time"
        else:
            self.reason, self._timeouts = None, 0
        self._checked = True


class Health:
    """一组检查加上受监督循环的状态；``drain`` 之后永远不就绪。

    ``essential``：这个循环死了，本角色的事就做不成；否则只算 ``degraded``。
    """

    def __init__(
        self,
        loops: Callable[[], list[LoopState]],
        essential: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._loops = loops
        self._essential_loop = essential
        self._parts: dict[str, _Part] = {}
        self._draining = False
        self._watched = False
        self._started = False
        self._checked_at = float("-inf")
        self._checking: asyncio.Task[None] | None = None

    def add(self, name: str, check: Check, *, essential: bool = True) -> None:
        self._parts[name] = _Part(check, essential)

    def drain(self) -> None:
        """从此不就绪，好让负载均衡先移走我们。"""
        self._draining = True

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._watch, self._pause)

    async def _watch(self) -> None:
        await self.check_now()
        self._watched = True
        self._started = self._started or self.latest().ready

    async def _pause(self) -> None:
        await asyncio.sleep(EVERY_S if self._started else STARTING_S)

    async def report(self) -> HealthReport:
        if self._draining:
            return HealthReport({"process": "draining"})
        now = asyncio.get_running_loop().time()
        if not self._watched and now - self._checked_at > CACHE_S:
            await self.check_now()
        return self.latest()

    async def check_now(self) -> None:
        """检查一遍；正在检查就等它。"""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(), name="health-check")
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        await asyncio.gather(*(part.run() for part in self._parts.values()))
        self._checked_at = asyncio.get_running_loop().time()

    def latest(self) -> HealthReport:
        """最近一遍的结果，加上各循环此刻的状态。"""
        report = HealthReport({})
        for name, part in self._parts.items():
            if part.reason:
                (report.failing if part.essential else report.degraded)[name] = part.reason
        for loop in self._loops():
            if loop.failing or not loop.running:
                where = report.failing if self._essential_loop(loop.name) else report.degraded
                state = "restarting" if loop.running else "not running"
                where[f"loop:{loop.name}"] = f"{state}: {loop.why}" if loop.why else state
        return report

    def parts(self) -> dict[str, str | None]:
        """各项 → 不好的原因；好的是 None。"""
        return {name: part.reason for name, part in self._parts.items()}

    def well(self, part: str) -> bool | None:
        """这一项最近好不好；还没有检查过则 None。"""
        return self._parts[part].well

    def loops(self) -> list[LoopState]:
        return self._loops()

    @property
    def ready(self) -> bool:
        return not self._draining and self.latest().ready

    def hears(self, *names: str) -> bool:
        """这几项最近都好。"""
        return all(part.reason is None for name, part in self._parts.items() if name in names)
