"""这个 Redis 用户有没有我们要的权限：一样一样地试，好在启动时就说出少了哪一项（B4，LESSONS 26）。

Redis 7 的新用户没有任何频道的权限；不先试，就是永远订阅不上，而没有人说为什么。
"""

from __future__ import annotations

from ..errors import ConfigurationError, MeetingPushError
from .connection.address import DEFAULT_USERNAME, RedisAddress
from .connection.lean import LeanConnection
from .connection.replies import ForbiddenByAclError
from .keys import DELIVERY_GROUP, Keys

_TTL_MS = 60_000


async def check_rights(address: RedisAddress, keys: Keys, probe_id: str, timeout_s: float) -> None:
    """各条命令、各个频道都试一遍，在自己的键上；什么也不留下。

    :raises ConfigurationError: 少了权限；``cause`` 是 ``noperm``，消息说是哪几项
    :raises RedisUnavailableError: 连不上，或现在答不上来
    """
    lean = LeanConnection(address, timeout_s=timeout_s, name="meeting-push-rights")
    await lean.connect()
    try:
        missing = [what for what, command in _needed(keys, probe_id) if await _no(lean, command)]
        # 订阅之后这条连接只能订阅，所以放在最后
        channels = [("SUBSCRIBE", channel) for channel in _channels(keys, probe_id)]
        missing += [" ".join(command) for command in channels if await _no(lean, command)]
    finally:
        await lean.close()
    if missing:
        raise _lacking(address.username or DEFAULT_USERNAME, keys, missing)


def _needed(keys: Keys, probe_id: str) -> list[tuple[str, tuple[str | int, ...]]]:
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
        ("INFO", "server"),
        ("TIME",),
        ("CLIENT", "ID"),
    ]
    # 只往没有人订阅的频道发
    for_nobody = (keys.user_channel(0), keys.canary_channel(probe_id))
    commands += [("PUBLISH", channel, "") for channel in for_nobody]
    named = {"PUBLISH", "SET", "XADD"}
    return [(f"{c[0]} {c[1]}" if c[0] in named else str(c[0]), c) for c in commands]


def _channels(keys: Keys, probe_id: str) -> list[str]:
    """每种频道一个。"""
    return [
        *(keys.user_channel(0), keys.presence_channel(0), keys.meeting_channel(probe_id)),
        *(keys.broadcast_channel, keys.system_channel, keys.canary_channel(probe_id)),
    ]


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
    error = ConfigurationError(
        f"noperm: the Redis user {user} may not {', '.join(dict.fromkeys(missing))};"
        f" e.g. ACL SETUSER {user} ~{keys.prefix}* &{keys.prefix}* +@all"
    )
    error.cause = "noperm"
    return error
