"""内嵌在别人的服务器里，收到停下的信号时：先送客，再让它停。

uvicorn（在 gunicorn 的工人里也是它）收到信号就用 1012 关掉所有 WebSocket，之后才轮到 lifespan
（LESSONS 19）：所以 lifespan 起来时接过它的处理函数，送完客再交给它。第二次信号立即交给它。别的
服务器（hypercorn、granian）的信号不在这里：它们先关连接，客户端照常重连。
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Final

from ..logs import logger

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def drained_first(drain: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """其间的信号先做 ``drain``；不在主线程、不是 uvicorn 则无事。"""
    taken: dict[signal.Signals, tuple[_Handler, _Handler]] = {}
    if threading.current_thread() is threading.main_thread():
        stopping = _Stopping(asyncio.get_running_loop(), drain)
        for number in _STOPPING:
            if (theirs := _uvicorns(signal.getsignal(number))) is not None:
                taken[number] = theirs, stopping.before(theirs)
                signal.signal(number, taken[number][1])
    try:
        yield
    finally:
        for number, (theirs, ours) in taken.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, theirs)


def _uvicorns(handler: object) -> _Handler | None:
    module = sys.modules.get("uvicorn.server")
    if module is None or not isinstance(getattr(handler, "__self__", None), module.Server):
        return None
    assert callable(handler)
    return handler


class _Stopping:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, drain: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._loop = loop
        self._drain = drain
        self._task: asyncio.Task[None] | None = None
        self._begun = False

    def before(self, theirs: _Handler) -> _Handler:
        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._begun:
                theirs(number, frame)
                return
            self._begun = True
            self._loop.call_soon_threadsafe(self._start, theirs, number)

        return on_signal

    def _start(self, theirs: _Handler, number: int) -> None:
        self._task = self._loop.create_task(self._drain())
        self._task.add_done_callback(lambda task: self._done(task, theirs, number))

    def _done(self, task: asyncio.Task[None], theirs: _Handler, number: int) -> None:
        """送客不成也照样停。"""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("drain_failed")
        theirs(number, None)
