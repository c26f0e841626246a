"""就绪：真的能送达才算（LESSONS 20：别人“200 却什么都没送”）。"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..errors import MeetingPushError
from ..supervision import LoopState

#: 检查一次的结果在这么久之内共用，探针再密也不会变成负载。
CACHE_S: Final = 0.5
CHECK_TIMEOUT_S: Final = 2.0

#: 正常返回即好；抛出 MeetingPushError 即坏，消息就是原因。
Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """``failing``：部件 → 原因；空即就绪。"""

    failing: dict[str, str]

    @property
    def ready(self) -> bool:
        return not self.failing

    def as_dict(self) -> dict[str, object]:
        return {"ready": self.ready, "failing": self.failing}


class Health:
    """一组检查加上受监督循环的状态；``draining`` 之后永远不就绪。"""

    def __init__(self, loops: Callable[[], list[LoopState]]) -> None:
        self._loops = loops
        self._checks: dict[str, Check] = {}
        self._draining = False
        self._cached: tuple[float, HealthReport] | None = None

    def add(self, name: str, check: Check) -> None:
        self._checks[name] = check

    def drain(self) -> None:
        """从此不就绪，好让负载均衡先移走我们。"""
        self._draining = True

    async def report(self) -> HealthReport:
        if self._draining:
            return HealthReport({"process": "draining"})
        now = asyncio.get_running_loop().time()
        if self._cached is None or now - self._cached[0] > CACHE_S:
            self._cached = (now, await self._run())
        return self._cached[1]

    async def _run(self) -> HealthReport:
        names = list(self._checks)
        reasons = await asyncio.gather(*(_reason(self._checks[name]) for name in names))
        failing = {name: why for name, why in zip(names, reasons, strict=True) if why}
        for loop in self._loops():
            if loop.failing or not loop.running:
                failing[f"loop:{loop.name}"] = "not running" if not loop.running else "restarting"
        return HealthReport(failing)


async def _reason(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except MeetingPushError as error:
        return error.message
    except TimeoutError:
        return "no answer in time"
    return None
