"""一个进程里的几个节点：同一个真实的 Redis，各有各的连接与租约。"""

from __future__ import annotations

import itertools

from meeting_push.clock import Clock, now_ms
from meeting_push.model import ConnectionInfo, PresenceStatus
from meeting_push.node_identity import NodeIdentity
from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import Settings
from meeting_push.supervision import Aside

_numbers = itertools.count()


def settings(**changes: object) -> Settings:
    return Settings(_env_file=None, presence_flush_ms=0, **changes)


def info(connection_id: str, status: PresenceStatus = "active", node: str = "") -> ConnectionInfo:
    """一台设备；``node`` 由登记它的服务填上。"""
    now = now_ms()
    return ConnectionInfo(
        connection_id=connection_id,
        device_id="d",
        device_info='phone "node":"x"} "status":"busy"',  # 谁也骗不了
        connect_time=now,
        last_heartbeat=now,
        ip_address="127.0.0.1",
        status=status,
        node=node,
    )


async def node(
    redis: RedisService, *, clock: Clock = now_ms, **changes: object
) -> OnlineStatusService:
    """一个有租约的节点；没有循环在跑，写入、收拾、对账都由测试来推动。"""
    made = settings(**changes)
    one = OnlineStatusService(
        redis,
        NodeIdentity(f"n{next(_numbers)}"),
        made.presence,
        made.edge,
        clock=clock,
        aside=Aside("presence"),
    )
    await one._renew()
    return one


async def crash(redis: RedisService, one: OnlineStatusService) -> None:
    """它死了，租约也到期了。"""
    await redis.lean.execute("DEL", redis.keys.node(one._node.id))


async def stored(redis: RedisService, user_id: int) -> tuple[int, int | None, bool, bool]:
    """Redis 里原样的：哈希有几项、计数、在不在全局集合、有没有 TTL。"""
    keys, lean = redis.keys, redis.lean
    length, count, score, ttl = await lean.execute_many(
        [
            ("HLEN", keys.online_user(user_id)),
            ("GET", keys.connection_count(user_id)),
            ("ZSCORE", keys.online_users_set, user_id),
            ("PTTL", keys.online_user(user_id)),
        ]
    )
    return length, None if count is None else int(count), score is not None, ttl > 0


ABSENT = (0, None, False, False)
