"""Redis Cluster 的槽：一条命令归哪个槽，各个槽此刻归哪个主；怎么问出来（决定 0018）。

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from ..errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from .address import Node, RedisAddress, credentials_refused, greeting, host_and_port
from .command_link import converse
from .link import Argument

SLOTS: Final = 16_384
#: 一台答这么久（不长于一条命令的时限）；有一台答了，别的再等这么久：慢的多半是挂着的。
ANSWER_S: Final = 1.0
GRACE_S: Final = 0.2
_NAME: Final = "meeting-push-slots"


def slot_of(key: Argument) -> int:
    """一个键、一个分片的频道的槽；花括号里非空的才是 hash tag。"""
    name = key if isinstance(key, bytes) else str(key).encode()
    opened = name.find(b"{")
    if opened >= 0:
        closed = name.find(b"}", opened)
        if closed > opened + 1:
            name = name[opened + 1 : closed]
    return binascii.crc_hqx(name, 0) % SLOTS


#: 全部的槽平分成这么多段。
STRETCHES: Final = 64


def stretch_of(slot: int) -> int:
    return slot * STRETCHES // SLOTS


def _tags() -> tuple[str, ...]:
    found: dict[int, str] = {}
    for tag in map(str, count()):
        found.setdefault(stretch_of(slot_of(tag)), tag)
        if len(found) == STRETCHES:
            return tuple(found[stretch] for stretch in range(STRETCHES))
    raise AssertionError("unreachable")


#: 每一段槽里的一个 hash tag。
TAGS: Final = _tags()

#: 没有键的：哪个主都行。PUBLISH 由总线传给全部节点。
_KEYLESS: Final = frozenset(
    {
        *("PING", "ECHO", "INFO", "DBSIZE", "TIME", "CLIENT", "CLUSTER", "CONFIG", "SCRIPT"),
        *("ACL", "COMMAND", "ROLE", "PUBLISH", "PUBSUB", "SUBSCRIBE", "SCAN", "WAIT"),
    }
)
#: 第一个键在第几个参数；没有列出的在第一个。0：没有键；-1：在 STREAMS 之后。
_KEY_AT: Final[dict[Argument, int]] = {
    **dict.fromkeys(_KEYLESS, 0),
    **dict.fromkeys(("XREADGROUP", "XREAD"), -1),
    **dict.fromkeys(("EVAL", "EVALSHA"), 3),
    **dict.fromkeys(("XGROUP", "XINFO", "MEMORY", "OBJECT", "ZINTER", "ZUNION", "ZDIFF"), 2),
}


def slot_of_command(args: Sequence[Argument]) -> int | None:
    """看它的第一个键；没有键的 None。几个键的都同槽（决定 0018）。"""
    at = _KEY_AT.get(args[0], 1)
    if at == 0:
        return None
    if at == -1:
        return slot_of(args[args.index("STREAMS") + 1])
    if at == 3 and not args[2]:  # 一段没有声明键的脚本
        return None
    return slot_of(args[at]) if len(args) > at else None


@dataclass(frozen=True, slots=True)
class SlotMap:
    """一台说的：哪一段槽（两头都算）归哪个主；``epoch``：它见过的最新的纪元。"""

    ranges: tuple[tuple[int, int, Node], ...]
    epoch: int = 0
    #: 它说 Cluster 此刻收得下命令。
    well: bool = True

    @property
    def masters(self) -> list[Node]:
        """管着槽的，次序不变。"""
        return sorted({node for _, _, node in self.ranges})

    @property
    def covered(self) -> bool:
        """没有一个槽没有人管。"""
        return sum(high - low + 1 for low, high, _ in self.ranges) == SLOTS

    @classmethod
    def of(cls, asked: str, info: bytes, slots: Sequence[Any]) -> SlotMap:
        """``CLUSTER INFO`` 与 ``CLUSTER SLOTS`` 的回答；没有说主机的，就是 ``asked``。"""
        lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        ranges = [(low, high, _node(asked, master)) for low, high, master, *_ in slots]
        epoch = int(lines.get("cluster_current_epoch", 0))
        return cls(tuple(sorted(ranges)), epoch, lines.get("cluster_state") == "ok")


def _node(asked: str, told: Sequence[Any]) -> Node:
    """[主机, 端口, id, [另一种写法…]]；``?``：要说名字而它没有名字，另一种写法里有地址。"""
    host, port = (told[0] or b"").decode(), int(told[1])
    if host == "?":
        more = told[3] if len(told) > 3 else ()
        host = dict(zip(more[::2], more[1::2], strict=False)).get(b"ip", b"").decode()
    return host or asked, port


async def find_slots(address: RedisAddress, nodes: Iterable[Node], timeout_s: float) -> SlotMap:
    """一起问这几台；几种说法里信 Cluster 还好着的、纪元最新的。

    :raises ConfigurationError: 全都说不行：密码不对、没有权限、不是 Cluster
    :raises RedisUnavailableError: 没有一台答
    """
    limit_s = min(timeout_s, ANSWER_S)
    asking = {
        asyncio.create_task(_ask(node_address(address, node), limit_s))
        for node in dict.fromkeys(nodes)
    }
    told, errors = await _answers(asking)
    if not told:
        raise _nobody(address, errors)
    return max(told, key=lambda one: (one.well, one.epoch, one.covered))


def node_address(address: RedisAddress, node: Node) -> RedisAddress:
    """其中一台的；用户名、密码、TLS 照 Cluster 的。"""
    return replace(address, host=node[0], port=node[1], cluster=())


async def _answers(
    asking: Collection[asyncio.Task[SlotMap | MeetingPushError]],
) -> tuple[list[SlotMap], list[MeetingPushError]]:
    told: list[SlotMap] = []
    errors: list[MeetingPushError] = []
    waiting = set(asking)
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting,
                timeout=GRACE_S if told else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
            for answer in (task.result() for task in done):
                if isinstance(answer, SlotMap):
                    told.append(answer)
                else:
                    errors.append(answer)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return told, errors


async def _ask(node: RedisAddress, limit_s: float) -> SlotMap | MeetingPushError:
    where = host_and_port(node.host, node.port)
    commands = [*greeting(node, _NAME), ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]
    try:
        *greeted, info, slots = await converse(node, commands, limit_s)
    except MeetingPushError as error:
        return credentials_refused(error) or error
    for reply in greeted:
        if isinstance(reply, MeetingPushError):
            return credentials_refused(reply) or reply
    if isinstance(slots, MeetingPushError):
        return ConfigurationError(f"{where} is not a Redis Cluster ({slots}): use redis://{where}")
    return SlotMap.of(node.host, info, slots)


def _nobody(address: RedisAddress, errors: Sequence[MeetingPushError]) -> MeetingPushError:
    said = "; ".join(dict.fromkeys(error.message for error in errors))
    passing = [error for error in errors if error.temporary]
    if passing:
        return RedisUnavailableError(f"no node of {address}: {said}", cause=passing[0].cause)
    refused = ConfigurationError(said)
    refused.cause = errors[0].cause
    return refused
