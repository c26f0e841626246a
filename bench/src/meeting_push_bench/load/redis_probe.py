"""问 Redis：它自己的 CPU 与内存、队列、在线的人、有几个节点。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from meeting_push.errors import MeetingPushError
from meeting_push.redis.cluster import lean_connection
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys, QueueKeys
from meeting_push.redis.lean import LeanConnection

from ..failure import BenchError
from ..target import Target

#: 问一遍是每人一条命令：问得太勤，量到的是自己。
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class RedisUse:
    """``cpu_s`` 累计；``memory_bytes`` 是它的 RSS；``queued`` 投递队列里还没了结的。

    Cluster 的是各个主合起来。
    """

    cpu_s: float
    memory_bytes: int
    queued: int


class RedisProbe:
    def __init__(self, connection: LeanConnection, prefix: str, partitions: int = 1) -> None:
        self._redis = connection
        self._keys = Keys(prefix, tagged=bool(connection.tags))
        queues = QueueKeys.of(self._keys, partitions)
        self._streams = [stream for queue in queues for stream in queue.streams]

    async def use(self) -> RedisUse:
        """:raises BenchError: Redis 不回答"""
        try:
            infos, *lengths = await asyncio.gather(
                self._redis.everywhere("INFO"),
                *(self._redis.execute("XLEN", stream) for stream in self._streams),
            )
        except MeetingPushError as error:
            raise BenchError(f"Redis does not answer: {error.message}") from None
        cpu, memory = 0.0, 0
        for info in infos:
            lines = info.decode().splitlines()
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            cpu += float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])
            memory += int(fields["used_memory_rss"])
        return RedisUse(cpu, memory, sum(map(int, lengths)))

    async def online_users(self) -> int:
        """:raises BenchError: Redis 不回答"""
        online = await self._ask("ZCARD", self._keys.online_users_set)
        assert isinstance(online, int)
        return online

    async def listening_nodes(self) -> int:
        """听着广播的节点数。

        :raises BenchError: Redis 不回答
        """
        channel = self._keys.broadcast_channel
        try:
            replies = await self._redis.everywhere("PUBSUB", "NUMSUB", channel)
        except MeetingPushError as error:
            raise BenchError(f"Redis does not answer: {error.message}") from None
        return sum(int(reply[1]) for reply in replies)

    async def waiting(self, user_ids: Sequence[int]) -> int:
        """这些人的信箱里一共还有几条：先记录、后移出，所以 0 就是全部的确认都已记录。

        :raises BenchError: Redis 不回答
        """
        counts = [("ZCARD", self._keys.mailbox(user_id)) for user_id in user_ids]
        try:
            return sum(await self._redis.execute_many(counts))
        except MeetingPushError as error:
            raise BenchError(f"Redis does not answer: {error.message}") from None

    async def all_recorded(self, user_ids: Sequence[int], grace_s: float) -> None:
        """等到这些人的确认都已记录、信箱都空了。

        :raises BenchError: ``grace_s`` 没有进展
        """
        least, since = -1, time.monotonic()
        while waiting := await self.waiting(user_ids):
            if least < 0 or waiting < least:
                least, since = waiting, time.monotonic()
            elif time.monotonic() - since > grace_s:
                raise BenchError(f"{waiting:,} acks were never recorded")
            await asyncio.sleep(_POLL_S)

    async def _ask(self, *command: str) -> object:
        try:
            reply: object = await self._redis.execute(*command)
        except MeetingPushError as error:
            raise BenchError(f"Redis does not answer: {error.message}") from None
        return reply


@contextlib.asynccontextmanager
async def redis_probe(target: Target) -> AsyncIterator[RedisProbe]:
    """:raises BenchError: 连不上"""
    connection = lean_connection(RedisAddress.parse(target.redis_url), name="bench-probe")
    try:
        await connection.connect()
        yield RedisProbe(connection, target.key_prefix, target.partitions)
    except MeetingPushError as error:
        if isinstance(error, BenchError):
            raise
        raise BenchError(f"can not reach Redis: {error.message}") from None
    finally:
        await connection.close()
