"""演练的清单：每一个怎样弄坏、怎样修好，哪条规则该说出来。

一个毛病是一个 ``async with``：进去时坏了，出来时修好了；被打断也修好。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Final

import msgspec
from websockets.exceptions import InvalidHandshake

from ..launcher import dying_with_us
from ..redis.dial import RedisAddress
from ..redis.keys import Keys, QueueKeys
from ..redis.probe import writes_paused
from ..redis.redis_service import RedisService
from .system import System, acknowledge
from .throwaway import POLL_S, Throwaway

#: 一台不读的设备：这么大的正文，几十条就满了它与内核的缓冲。
BIG: Final = "x" * 60_000
#: 晚了的占这么一点，两个短窗口的预算就不再烧得太快（99.9 % 的 6 倍）。
MOSTLY_IN_TIME: Final = 0.005
#: 演练被 kill -9，写坏的键自己也会消失。
SPOILED_MS: Final = 120_000

Fault = AbstractAsyncContextManager[None]


# ── Redis、SQL ───────────────────────────────────────────────────────────────


@asynccontextmanager
async def redis_down(site: Throwaway) -> AsyncIterator[None]:
    await site.redis.kill()
    try:
        yield
    finally:
        await site.start_redis()


@asynccontextmanager
async def redis_paused(system: System) -> AsyncIterator[None]:
    assert system.redis_url is not None, "Drill.by_redis: asked before"
    async with writes_paused(RedisAddress.parse(system.redis_url)):
        yield


@asynccontextmanager
async def redis_slow(site: Throwaway) -> AsyncIterator[None]:
    site.proxy.delay_s = 0.25
    try:
        yield
    finally:
        site.proxy.delay_s = 0


@asynccontextmanager
async def database_down(site: Throwaway) -> AsyncIterator[None]:
    away = site.database.rename(site.database.with_name("away"))
    try:
        yield
    finally:
        away.rename(site.database)


# ── 节点 ─────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def node_killed(site: Throwaway) -> AsyncIterator[None]:
    await site.nodes[1].kill()
    yield
    await site.start_node(site.nodes[1])


@asynccontextmanager
async def deaf(site: Throwaway) -> AsyncIterator[None]:
    site.proxy.deaf = True
    try:
        yield
    finally:
        site.proxy.deaf = False


@asynccontextmanager
async def subscriptions_cut(site: Throwaway) -> AsyncIterator[None]:
    site.proxy.cuts_subscriptions = True
    site.proxy.cut_subscribers()
    try:
        yield
    finally:
        site.proxy.cuts_subscriptions = False


@asynccontextmanager
async def stranger(site: Throwaway) -> AsyncIterator[None]:
    """来了一个节点，它签令牌的密钥与别的不同。"""
    async with AsyncExitStack() as stack:
        await site.add_node(stack, "all", jwt_secret=secrets.token_urlsafe(32))
        yield


@asynccontextmanager
async def key_spoiled(site: Throwaway) -> AsyncIterator[None]:
    """有人写坏了预约消息的键（类型不对）：管它的循环死了又起，起了又死。"""
    redis = RedisService(RedisAddress.parse(site.redis_url), Keys())
    await redis.start()
    try:
        key = QueueKeys.of(redis.keys, 1)[0].delayed
        await redis.put(key, b"spoiled", SPOILED_MS)
        yield
        await redis.take(key)
    finally:
        await redis.close()


@asynccontextmanager
async def busy(_: Throwaway) -> AsyncIterator[None]:
    """每个核一个空转的进程；自己也到时就走。"""
    spin = "import signal\nsignal.alarm(120)\nwhile True: pass"
    burners = [
        await asyncio.create_subprocess_exec(
            *dying_with_us("/usr/bin/env", "nice", "-n", "19", sys.executable, "-c", spin),
            start_new_session=True,
        )
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        yield
    finally:
        for one in burners:
            with contextlib.suppress(ProcessLookupError):
                one.kill()
        await asyncio.gather(*(one.wait() for one in burners))


@asynccontextmanager
async def files_used_up(site: Throwaway) -> AsyncIterator[None]:
    """设备一批一批地来，到描述符用掉八成多；数要几秒才看得到，先满了就不再来。

    满了的门答 503，也请走连上了还没轮到说话的（``http/doorway.py``）：两种都是满了。
    """
    full = False
    async with AsyncExitStack() as devices:
        while await site.system.gauge("resource_usage_ratio", resource="open_files") < 0.83:
            if full:
                await asyncio.sleep(POLL_S)
                continue
            more = (devices.enter_async_context(site.system.device()) for _ in range(20))
            came = await asyncio.gather(*more, return_exceptions=True)
            refused = [one for one in came if isinstance(one, BaseException)]
            full = bool(refused)
            for one in refused:
                if not isinstance(one, InvalidHandshake | OSError):
                    raise one
        yield


# ── 队列、消息 ────────────────────────────────────────────────────────────────


@asynccontextmanager
async def channel_broken(site: Throwaway) -> AsyncIterator[None]:
    """要说的话先交给一个总是 500 的渠道。"""
    site.receiver.broken = True
    async with bad_tokens(site.system):
        yield
    site.receiver.broken = False


@asynccontextmanager
async def receiver_gone(site: Throwaway) -> AsyncIterator[None]:
    """接收事件的说自己没有了（410）；修好：人叫它接着送。"""
    site.receiver.gone = True
    await site.system.send()
    yield
    site.receiver.gone = False
    await site.command("webhook", "requeue", site.webhook)


def workers_gone(messages: int) -> Callable[[Throwaway], Fault]:
    """没有工人了（第二个进程），消息照样来。"""

    @asynccontextmanager
    async def make(site: Throwaway) -> AsyncIterator[None]:
        await site.nodes[1].stop()
        await site.system.send(messages)
        try:
            yield
        finally:
            await site.start_node(site.nodes[1])

    return make


@asynccontextmanager
async def never_acked(site: Throwaway) -> AsyncIterator[None]:
    """收到而从不确认，重推用完了就是死信；修好：再入队，这一次确认。"""
    async with site.system.device():
        await site.system.send()
        await _dead_letters(site.system)
        yield
    async with site.system.device() as phone:
        ids = [one.id for one in await _dead_letters(site.system)]
        await site.system.call("POST", "/api/v1/queues/dead-letter/requeue", {"ids": ids})
        await acknowledge(phone, wanted=1, within_s=10)


class _Letter(msgspec.Struct, frozen=True):
    id: str


class _Letters(msgspec.Struct, frozen=True):
    items: list[_Letter]


async def _dead_letters(system: System) -> list[_Letter]:
    async with asyncio.timeout(30):
        while True:
            body = await system.ask("/queues/dead-letter")
            if found := msgspec.json.decode(body, type=_Letters).items:
                return found
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def unacked(site: Throwaway) -> AsyncIterator[None]:
    async with site.system.device() as phone:
        await site.system.send()
        yield
        await acknowledge(phone, wanted=1, within_s=10)


@asynccontextmanager
async def nobody_home(site: Throwaway) -> AsyncIterator[None]:
    """发给不在的人，比他能收的多；修好：他来了，都确认。"""
    await site.system.send(60)
    yield
    async with site.system.device() as phone:
        await acknowledge(phone, wanted=60, within_s=20)


@asynccontextmanager
async def expiring(system: System) -> AsyncIterator[None]:
    """一秒就过期的，而他不在；修好：都送到的几条。"""
    for _ in range(4):
        await system.send(5, expires_in_s=1)
    yield
    async with system.device() as phone:
        await system.send(20)
        await acknowledge(phone, wanted=20, within_s=20)


@asynccontextmanager
async def slow_push(site: Throwaway) -> AsyncIterator[None]:
    """Redis 慢到没有一条在一秒之内推到；修好：很多条及时的，预算的账要还。"""
    async with site.system.device() as phone:
        site.proxy.delay_s = 0.7
        try:
            await site.system.send()
            await acknowledge(phone, wanted=1, within_s=30)
            yield
        finally:
            site.proxy.delay_s = 0
        while await _late_share(site.system) > MOSTLY_IN_TIME:
            await site.system.send(3)
            await acknowledge(phone, wanted=3, within_s=10)


async def _late_share(system: System) -> float:
    every, in_time = await system.gauges("due_pushes_total", "due_pushes_in_time_total")
    return 1 - in_time / every


# ── 连接 ─────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def slow_client(system: System) -> AsyncIterator[None]:
    """一台不读的设备：推过去的没有一条确认。"""
    async with system.device(reads=False):
        for _ in range(15):
            await system.send(2, BIG, expires_in_s=600)
        yield
    async with system.device() as phone:  # 换一台好的，把欠着的都收了
        await acknowledge(phone, wanted=30, within_s=20)


@asynccontextmanager
async def disconnects(system: System) -> AsyncIterator[None]:
    await system.vanish(30)
    yield


@asynccontextmanager
async def bad_tokens(system: System) -> AsyncIterator[None]:
    """超过这条规则此刻的阈值那么多次。"""
    times = int((await system.rule("authentication_failures_high")).threshold) + 10
    for _ in range(times):
        status, _ = await system.call("GET", "/api/v1/messages", token="drill")  # noqa: S106
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            await asyncio.sleep(1)
    yield
