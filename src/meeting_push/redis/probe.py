"""这个 Redis 好不好用：启动时试权限，运行时试写入。

权限一样一样地试，好在启动时就说出少了哪一项（B4，LESSONS 26）；写入用自己的键真的写一遍，
PING 有回答不算（B2，LESSONS 25）。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..errors import ConfigurationError, MeetingPushError
from ..histogram import Histogram
from ..node_identity import NodeIdentity
from ..supervision import periodically
from .address import DEFAULT_USERNAME, RedisAddress, host_and_port
from .cluster import lean_connection
from .keys import DELIVERY_GROUP, Keys
from .lean import PUBLISH, LeanConnection, Script
from .link import ForbiddenByAclError
from .redis_service import RedisService

#: 键活这么久：进程死了，什么也不留下。
_TTL_MS: Final = 60_000


async def check_rights(
    address: RedisAddress, keys: Keys, probe_id: str, timeout_s: float, *, waits: bool = False
) -> None:
    """各条命令、各个频道都试一遍，在自己的键上；什么也不留下。``waits``：要等副本的。

    :raises ConfigurationError: 少了权限；``cause`` 是 ``noperm``，消息说是哪几项。
        那里是一个 Sentinel、Cluster 的一台，地址却写成 Redis 的
    :raises RedisUnavailableError: 连不上，或现在答不上来
    """
    async with _dialled(address, timeout_s) as lean:
        await _refuse_others(lean, address)
        needed = _needed(keys, probe_id, lean.publishing)
        needed += [("WAIT", ("WAIT", 0, 0))] if waits else []
        missing = [what for what, command in needed if await _no(lean, command)]
        # 订阅之后这条连接只能订阅，所以放在最后
        missing += await _unheard(lean, keys, _quiet_channels(keys, probe_id))

    async def unheard(channel: str) -> list[str]:
        # 别人正在上面说话：订阅的回答之后来的，这条连接不认得，所以各用一条
        async with _dialled(address, timeout_s) as lean:
            return await _unheard(lean, keys, [channel])

    shared = (keys.broadcast_channel, keys.system_channel)
    # 一个出错，另一个也等到它关好自己的
    for found in await asyncio.gather(*map(unheard, shared), return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
        missing += found
    if missing:
        raise _lacking(address.username or DEFAULT_USERNAME, keys, missing)


@asynccontextmanager
async def _dialled(address: RedisAddress, timeout_s: float) -> AsyncIterator[LeanConnection]:
    lean = lean_connection(address, timeout_s=timeout_s, name="meeting-push-rights")
    await lean.connect()
    try:
        yield lean
    finally:
        await lean.close()


async def _refuse_others(lean: LeanConnection, address: RedisAddress) -> None:
    """Sentinel 也答 PING，它的命令别的都没有；Cluster 的一台只收它管着的槽。"""
    try:
        info: bytes = await lean.execute("INFO", "server")
    except ForbiddenByAclError:  # 少了的权限另有人说
        return
    where = host_and_port(address.host, address.port)
    if b"redis_mode:sentinel" in info:
        raise ConfigurationError(
            f"{address} is a Sentinel, not a Redis: the address is redis+sentinel://{where}/SERVICE"
        )
    if b"redis_mode:cluster" in info and not address.cluster:
        raise ConfigurationError(
            f"{address} is a node of a Redis Cluster: the address is redis+cluster://{where}"
        )


def _needed(keys: Keys, probe_id: str, publishing: str) -> list[tuple[str, tuple[str | int, ...]]]:
    """（给人看的，命令）；次序有关：流要先有。"""
    value, stream = keys.probe(probe_id), keys.probe_queue(probe_id)
    group = (stream, DELIVERY_GROUP)
    commands: list[tuple[str | int, ...]] = [
        ("SET", value, 1, "PX", _TTL_MS),
        ("EVAL", "return 1", 0),
        ("DEL", stream),
        ("XADD", stream, "*", "v", 1),
        ("XGROUP", "CREATE", *group, "0"),
        ("XREADGROUP", "GROUP", DELIVERY_GROUP, "probe", "COUNT", 1, "STREAMS", stream, ">"),
        ("XAUTOCLAIM", *group, "probe", 0, "0"),
        ("XPENDING", *group),
        ("XLEN", stream),
        ("UNLINK", stream, value),
        ("HSET", stream, "f", 1),
        ("DEL", stream),
        ("ZADD", stream, 1, "m"),
        ("DEL", stream),
        ("ZSCORE", keys.broadcast_ids, "none"),  # 前缀在花括号里的唯一一个
        ("INFO", "server"),
        ("TIME",),
        ("CLIENT", "ID"),
    ]
    # 只往没有人订阅的频道发
    for_nobody = (keys.user_channel(0), keys.canary_channel(probe_id))
    commands += [(publishing, channel, "") for channel in for_nobody]
    named = {PUBLISH, publishing, "SET", "XADD", "ZSCORE"}
    return [(f"{c[0]} {c[1]}" if c[0] in named else str(c[0]), c) for c in commands]


def _quiet_channels(keys: Keys, probe_id: str) -> list[str]:
    """没有人在上面说话的几种，各一个。"""
    return [
        *(keys.user_channel(0), keys.presence_channel(0)),
        *(keys.meeting_channel(probe_id), keys.canary_channel(probe_id)),
    ]


async def _unheard(lean: LeanConnection, keys: Keys, channels: list[str]) -> list[str]:
    """不许订阅的，写成命令。"""
    commands = [_listening(keys, channel, lean) for channel in channels]
    return [" ".join(command) for command in commands if await _no(lean, command)]


def _listening(keys: Keys, channel: str, lean: LeanConnection) -> tuple[str, str]:
    sharded = lean.publishing != PUBLISH and keys.is_sharded(channel)
    return ("SSUBSCRIBE" if sharded else "SUBSCRIBE"), channel


async def _no(lean: LeanConnection, command: tuple[str | int, ...]) -> bool:
    try:
        await lean.execute(*command)
    except ForbiddenByAclError:
        return True
    except MeetingPushError as error:
        if error.temporary:
            raise
    return False


def _lacking(user: str, keys: Keys, missing: list[str]) -> ConfigurationError:
    ours = [f"~{keys.prefix}*", *([f"~{{{keys.prefix}*"] if keys.prefix else ())]
    error = ConfigurationError(
        f"noperm: the Redis user {user} may not {', '.join(dict.fromkeys(missing))};"
        f" e.g. ACL SETUSER {user} {' '.join(ours)} &{keys.prefix}* +@all"
    )
    error.cause = "noperm"
    return error


# ── 收不下写入，故意的（``meeting-push drill``） ──────────────────────────────

#: 放开靠自己：说停这么久，一直续着；续的人死了，到时 Redis 自己放开。
_PAUSE_MS: Final = 15_000
_RENEW_S: Final = 5.0


@asynccontextmanager
async def writes_paused(address: RedisAddress) -> AsyncIterator[None]:
    """在里面的时候，这个 Redis 读有回答，写没有（对所有的客户端）；离开就放开。

    :raises RedisUnavailableError: 连不上，或它不许（``CLIENT PAUSE``）
    """
    lean = lean_connection(address, timeout_s=5, name="meeting-push-drill")
    await lean.connect()

    async def pause() -> None:
        await lean.everywhere("CLIENT", "PAUSE", _PAUSE_MS, "WRITE")

    try:
        await pause()
        renewing = asyncio.create_task(periodically(pause, partial(asyncio.sleep, _RENEW_S)))
        try:
            yield
        finally:
            renewing.cancel()
            await lean.everywhere("CLIENT", "UNPAUSE")
    finally:
        await lean.close()


# ── 收得下写入吗 ─────────────────────────────────────────────────────────────

_probe: Final = Script("probe")


class RedisProbe:
    """``delivers``：连取出、了结的命令也试（工人用得着的）。"""

    def __init__(
        self,
        redis: RedisService,
        node: NodeIdentity,
        *,
        delivers: bool,
        clock: Clock = now_ms,
    ) -> None:
        self._redis = redis
        self._node = node
        self._group = DELIVERY_GROUP if delivers else ""
        self._clock = clock
        #: Redis 的钟比我们的快多少毫秒；还没问到则 None。
        self.skew_ms: int | None = None
        #: 写一遍来回多久；``last_s`` 是最近一次，没有成的不算。
        self.round_trip = Histogram()
        self.last_s = 0.0
        self.failures = 0

    async def check(self) -> None:
        """:raises RedisUnavailableError: 写不进；``cause`` 说为什么"""
        try:
            await self._check()
        except BaseException:
            self.failures += 1
            raise

    async def _check(self) -> None:
        names, args = self._redis.keys, (_TTL_MS, self._group)
        each = self._redis.lean.one_each(self._name)
        calls = [((names.probe(one), names.probe_queue(one)), args) for one in each]
        asked_at = self._clock()
        began = time.perf_counter()
        seconds, micros = (await _probe.run_all(self._redis.lean, calls))[0]
        self.last_s = time.perf_counter() - began
        self.round_trip.record(self.last_s)
        await self._redis.client.ping()
        halfway = (asked_at + self._clock()) // 2
        self.skew_ms = int(seconds) * 1000 + int(micros) // 1000 - halfway

    def _name(self, number: int) -> str:
        """Cluster 上每个主都写，各有一个名字。"""
        return f"{self._node.id}-{number}" if number else self._node.id
