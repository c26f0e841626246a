"""控制频道：节点之间的命令，走 ``system:notifications``。

信封是 ``{"type":"control","command":"kick", …}``，绝不转给客户端；能发布到 Redis 的就能指挥
我们（Redis 在里面）。至多一次：正在重连的节点收不到，所以命令只用来加快，不用来保证。
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec

from ..logs import MANY, RepeatedWarning
from ..redis.redis_service import RedisService

_TYPE: Final = "control"


class ControlCommand(msgspec.Struct, frozen=True, kw_only=True, tag_field="command"):
    """一种命令是它的一个子类；``tag`` 就是线上的名字。"""

    type: Literal["control"] = "control"


class Kick(ControlCommand, frozen=True, kw_only=True, tag="kick"):
    """断开一台设备（4503）。"""

    user_id: int
    connection_id: str


class _Head(msgspec.Struct):
    type: str
    command: Any = None


_head_decoder: Final = msgspec.json.Decoder(_Head)

C = TypeVar("C", bound=ControlCommand)
#: 收下一个命令：同步，不得抛出。
Handler = Callable[[C], None]


@dataclass(frozen=True, slots=True)
class ControlStatistics:
    """``statistics()`` 的快照，只增：办了的、坏的、不认识的（更新的版本发来的）。"""

    handled: int
    malformed: int
    unknown: int


class ControlChannel:
    """``publish`` 发给所有节点（包括自己）；``take`` 是 ``contracts.ChannelRoute``。"""

    def __init__(self, redis: RedisService) -> None:
        self._redis = redis
        self._channel = redis.keys.system_channel
        self._handlers: dict[str, tuple[msgspec.json.Decoder[Any], Handler[Any]]] = {}
        self._handled = 0
        self._malformed = 0
        self._unknown = 0
        self._not_known = RepeatedWarning("control_command_unknown", lines=MANY)
        self._not_read = RepeatedWarning("control_command_malformed", lines=MANY)

    def on(self, kind: type[C], handler: Handler[C]) -> None:
        """登记一种命令的办法；每种至多一个。"""
        name = kind.__struct_config__.tag
        assert isinstance(name, str), "a command needs a tag"
        assert name not in self._handlers, f"{name} has a handler already"
        self._handlers[name] = (msgspec.json.Decoder(kind), handler)

    async def publish(self, command: ControlCommand) -> int:
        """返回有多少个节点在听。

        :raises RedisUnavailableError: 没有发出，或不知道发出没有；重发无害
        """
        return await self._redis.publish(self._channel, msgspec.json.encode(command))

    def take(self, payload: bytes) -> bool:
        """频道上的一条；不是控制命令（运维通知）则 False。坏的计数后丢弃。"""
        try:
            head = _head_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False  # 不是信封；由频道的主人计数
        if head.type != _TYPE:
            return False
        if isinstance(head.command, str):
            self._dispatch(head.command, payload)
        else:
            self._malformed += 1
        return True

    def _dispatch(self, name: str, payload: bytes) -> None:
        known = self._handlers.get(name)
        if known is None:
            self._unknown += 1
            self._not_known.say(command=name[:64])
            return
        decoder, handler = known
        try:
            command = decoder.decode(payload)
        except msgspec.DecodeError:
            self._malformed += 1
            self._not_read.say(command=name)
            return
        handler(command)
        self._handled += 1

    def statistics(self) -> ControlStatistics:
        return ControlStatistics(self._handled, self._malformed, self._unknown)
