"""需求的四条告警，真的故障：内置的与真的 Prometheus 都触发、通知到人，好了都清。

故障是 ``meeting-push drill`` 的（``drill/faults.py``），弄坏它自己起的一套，两个进程的节点。
平常缩短了窗口与等待，阈值是默认的；``make test-full-size`` 什么也不缩短。
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from meeting_push.drill import faults
from meeting_push.drill.faults import Fault
from meeting_push.drill.throwaway import Plan, Throwaway, throwaway
from meeting_push.monitoring.alerts.rules import RULES
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.probe import writes_paused
from tests.support.prometheus_site import PrometheusSite

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHRUNKEN: Final[Mapping[str, object]] = {
    "push_success_low": {"window_s": 12, "for_s": 0},
    "abnormal_disconnects_high": {"window_s": 12, "for_s": 0},
    "redis_unavailable": {"for_s": 1},
    "redis_slow": {"for_s": 1},
    "resource_usage_high": {"for_s": 0},
}
#: 一个人连得上这么多台；描述符不多，用得完。
DEVICES: Final[Mapping[str, object]] = {
    "max_devices_per_user": 1_000,
    "handshakes_per_user_per_s": 1_000,
    "handshakes_per_user_burst": 10_000,
}
OPEN_FILES: Final = 600
WITHIN_S: Final = 40.0
POLL_S: Final = 0.2

ENGINES: Final = {"built-in", "alertmanager"}
Label = Mapping[str, str]
OPEN_FILES_LABEL: Final[Label] = {"resource": "open_files"}


class Watch:
    """一条规则在两个引擎上：各在什么时候触发、恢复，通知各在什么时候到；秒，从 ``begin`` 算起。"""

    def __init__(self, site: Throwaway, rule: str, labels: Label) -> None:
        self.rule = rule
        self.times: list[dict[str, float]] = []
        self._site = site
        self._labels = labels
        self._ids: dict[str, str] = {}
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def fired(self) -> None:
        """等到两边都触发过，都告诉过人。"""
        fired = self._next()
        while fired.keys() != ENGINES:
            for engine, alert_id in ((await self._firing()) or {}).items():
                fired.setdefault(engine, self._elapsed())
                self._ids.setdefault(engine, alert_id)
            await asyncio.sleep(POLL_S)
        await self._told("firing")

    async def cleared(self) -> None:
        """等到触发过的那两条都清了，都告诉过人。"""
        cleared = self._next()
        while cleared.keys() != ENGINES:
            firing = await self._firing()
            if firing is not None:
                for engine in ENGINES - firing.keys():
                    cleared.setdefault(engine, self._elapsed())
            await asyncio.sleep(POLL_S)
        await self._told("resolved")

    async def _firing(self) -> dict[str, str] | None:
        """引擎 → 它此刻在触发的那一条；问不到则 None。"""
        found = await self._site.system.firing(self.rule, self._labels)
        if found is None:
            return None
        return {one.labels.get("source", "built-in"): one.alert_id for one in found}

    async def _told(self, state: str) -> None:
        told = self._next()

        async def of(engine: str) -> None:
            heard = self._site.receiver.heard
            await heard(self.rule, self._labels, state, self._ids[engine])
            told[engine] = self._elapsed()

        await asyncio.gather(*map(of, ENGINES))

    def _next(self) -> dict[str, float]:
        self.times.append({})
        return self.times[-1]

    def line(self) -> str:
        """表里的一行：触发、通知、恢复、通知，各是内置的与 Alertmanager 的。"""
        each = [f"{x['built-in']:.0f} · {x['alertmanager']:.0f}" for x in self.times]
        return f"| `{self.rule}` | {' | '.join(each)} |"


async def seen(site: Throwaway, rule: str, fault: Fault, labels: Label, within_s: float) -> Watch:
    """弄坏，等到两边都触发过、都通知了；修好，等到两边都清、都通知了。"""
    watch = Watch(site, rule, labels)
    async with contextlib.AsyncExitStack() as undoing:
        await undoing.enter_async_context(fault)
        watch.begin()
        await in_time(watch, watch.fired, within_s)
        watch.begin()
    await in_time(watch, watch.cleared, within_s)
    return watch


async def in_time(watch: Watch, step: Callable[[], Awaitable[None]], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await step()
    except TimeoutError:
        raise AssertionError(f"{watch.rule}, not in {within_s:.0f} s: {watch.times}") from None


@contextlib.asynccontextmanager
async def watched(plan: Plan, folder: Path, *, hasten: bool) -> AsyncIterator[Throwaway]:
    """自己起的一套，真的 Prometheus 与 Alertmanager 看着它。"""
    async with throwaway(plan) as site:
        system = site.system
        prometheus = PrometheusSite(folder, site.rules, site.port, system.token, hasten=hasten)
        with prometheus.running():
            yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Throwaway]:
    plan = Plan(change=SHRUNKEN, settings=DEVICES, workers=2, max_open_files=OPEN_FILES)
    folder = tmp_path_factory.mktemp("watched") / "site"
    async with watched(plan, folder, hasten=True) as running:
        yield running


@pytest.mark.timeout(180)
async def test_push_success_below_95_percent(site: Throwaway) -> None:
    fault = faults.expiring(site.system)
    await seen(site, "push_success_low", fault, {}, WITHIN_S)


@pytest.mark.timeout(180)
async def test_abnormal_disconnects_above_5_percent(site: Throwaway) -> None:
    fault = faults.disconnects(site.system)
    await seen(site, "abnormal_disconnects_high", fault, {}, WITHIN_S)


@pytest.mark.timeout(180)
async def test_redis_unavailable(site: Throwaway) -> None:
    await seen(site, "redis_unavailable", faults.redis_down(site), {}, WITHIN_S)


@pytest.mark.timeout(180)
async def test_redis_does_not_answer_in_time(site: Throwaway) -> None:
    fault = writes_paused(RedisAddress.parse(site.redis_url))
    await seen(site, "redis_unavailable", fault, {}, WITHIN_S)


@pytest.mark.timeout(180)
async def test_resource_usage_above_80_percent(site: Throwaway) -> None:
    fault = faults.files_used_up(site)
    await seen(site, "resource_usage_high", fault, OPEN_FILES_LABEL, WITHIN_S)


#: 规则自己的时间之外：看一遍（5 秒）、抓取与评估（各 5 秒）、采样（5 秒），攒着说的（内置 10 秒，
#: Alertmanager 10 秒、之后 30 秒），机器在忙。
MARGIN_S: Final = 90.0
#: 弄坏本身（描述符用到头、消息过期）要这么久，规则从半途就开始等。
FAULT_S: Final = 10.0
#: 触发晚于 ``for_s`` 至多这么久；Alertmanager 再攒 10 秒。
FIRES_LATE_S: Final = 30.0
GROUP_WAIT_S: Final = 10.0


def limit_s(rule: str) -> float:
    return RULES[rule].window_s + RULES[rule].for_s + MARGIN_S


@pytest.mark.full_size
@pytest.mark.timeout(1_800)
async def test_with_the_default_times(tmp_path: Path, show: Callable[[str], None]) -> None:
    """前三个同时弄坏：各看各的；Redis 单独。"""
    plan = Plan(settings=DEVICES, workers=2, max_open_files=OPEN_FILES, quick=False)
    async with watched(plan, tmp_path / "site", hasten=False) as site:

        async def whole(rule: str, fault: Fault, labels: Label | None = None) -> Watch:
            return await seen(site, rule, fault, labels or {}, limit_s(rule))

        watches = [
            *await asyncio.gather(
                whole("push_success_low", faults.expiring(site.system)),
                whole("abnormal_disconnects_high", faults.disconnects(site.system)),
                whole("resource_usage_high", faults.files_used_up(site), OPEN_FILES_LABEL),
            ),
            await whole("redis_unavailable", faults.redis_down(site)),
        ]
    for one in watches:
        show(one.line())
    for one in watches:
        for_s, fired = RULES[one.rule].for_s, one.times[0]
        assert min(fired.values()) >= for_s - FAULT_S
        assert fired["built-in"] <= for_s + FIRES_LATE_S
        assert fired["alertmanager"] <= for_s + FIRES_LATE_S + GROUP_WAIT_S
