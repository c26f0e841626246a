"""消息以外的帧：交给应用注册的处理函数。"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from loguru import logger

from ..protocol import frames
from .inbox import Inbox

Event = (
    frames.ReadSync
    | frames.Receipt
    | frames.Presence
    | frames.Gap
    | frames.Resync
    | frames.Notice
    | frames.Error
)
#: 参数是 ``protocol.frames`` 里的对应结构；同步函数、协程函数都可以。
EventHandler = Callable[[Any], object]

_TYPES: Final[dict[type, str]] = {
    frames.ReadSync: "read_sync",
    frames.Receipt: "receipt",
    frames.Presence: "presence",
    frames.Gap: "gap",
    frames.Resync: "resync",
    frames.Notice: "notice",
    frames.Error: "error",
}
_QUEUE_LIMIT: Final = 1_000


class EventHub:
    """逐个处理，按到达次序；与消息之间没有次序可言。"""

    def __init__(self) -> None:
        self._handlers: defaultdict[str, list[EventHandler]] = defaultdict(list)
        self._queue: Inbox[tuple[str, Event]] = Inbox(_QUEUE_LIMIT)

    @property
    def full(self) -> bool:
        return self._queue.full

    def on(self, event: str, handler: EventHandler) -> None:
        """:raises ValueError: 没有这种帧"""
        if event not in _TYPES.values():
            raise ValueError(f"unknown event {event!r}; one of {', '.join(_TYPES.values())}")
        self._handlers[event].append(handler)

    async def offer(self, frame: Event) -> None:
        """没人要的直接丢掉；满了就等。"""
        name = _TYPES[type(frame)]
        if name in self._handlers:
            await self._queue.put((name, frame))

    async def run(self) -> None:
        """逐个交给处理函数，直到被取消。"""
        while (item := await self._queue.get()) is not None:
            name, frame = item
            for handler in self._handlers[name]:
                await _call(handler, name, frame)


async def _call(handler: EventHandler, name: str, frame: Event) -> None:
    try:
        result = handler(frame)
        if inspect.isawaitable(result):
            await result
    except Exception:  # noqa: BLE001 — 应用的代码什么都可能抛；一个坏的处理函数不该停掉连接
        logger.opt(exception=True).bind(frame_type=name).error("event_handler_failed")
