"""进程内的处理器：``push.on("message.delivered", handler)``。

与一个 URL 一样各有自己的队列：至少一次，同一条消息的照次序，抛出的过一会儿再来，24 小时之后死信。
集群里登记了同一个处理器（模块与名字相同）的几个进程，同一个事件由其中一个做。
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UnavailableError
from .post import Answer, Verdict
from .units import Persons, PushEvent, Unit, introduced, itself

#: 一个事件做这么久还没完，就算没有做成。
TIMEOUT_S: Final = 15.0
#: 同步的处理器在旁边的线程里；挂住的线程结束不了，一个处理器至多这么多条。
MOST_THREADS: Final = 8

#: 拿到一个事件：``id``（去重用它）、``type``、``timestamp``、``data``。同步的在旁边的线程里做。
Handler = Callable[[PushEvent], Awaitable[None] | None]


class HandlerCall:
    """叫一个处理器；实现 ``post.Delivery``。"""

    def __init__(
        self, handler: Handler, persons: Persons = itself, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._handler = handler
        self._persons = persons
        self._timeout_s = timeout_s
        self._is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 — 要的就是它的 __call__
        )
        self._threads = 0

    async def deliver(self, unit: Unit) -> Answer:
        """一份里的一个接一个；做到一半没有做成的，整份再来。"""
        for event in await introduced(unit, self._persons):
            why = await self.call(event)
            if why:
                return Answer(Verdict.AGAIN, why)
        return Answer(Verdict.DONE)

    async def call(self, event: PushEvent) -> str:
        """空的是做成了，否则为什么没有。"""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call(event)
        except TimeoutError:
            return f"the handler took more than {self._timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 — 别人的代码，什么都可能抛
            return f"the handler raised {type(error).__name__}"
        return ""

    async def close(self) -> None:
        """没有什么要放开的。"""

    async def _call(self, event: PushEvent) -> None:
        result = await self._in_thread(event) if not self._is_async else self._handler(event)
        if inspect.isawaitable(result):
            await result

    async def _in_thread(self, event: PushEvent) -> Any:
        if self._threads >= MOST_THREADS:
            raise UnavailableError("every thread of this handler hangs")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._threads -= 1
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = self._handler(event)
            except BaseException as raised:  # noqa: BLE001 — 交给等着的人
                error = raised
            with contextlib.suppress(RuntimeError):  # 事件循环没有了：没有人等着
                loop.call_soon_threadsafe(settle, result, error)

        self._threads += 1
        threading.Thread(target=work, name="event-handler", daemon=True).start()
        return await done


@dataclass(frozen=True, slots=True)
class Registered:
    """``key`` 是它在记录里的名字；``label`` 在指标与日志里。"""

    kind: str
    call: HandlerCall
    key: str
    label: str


def registered(kind: str, handler: Handler, place: int, persons: Persons = itself) -> Registered:
    """``place``：同名的第几个。"""
    name = f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', 'handler')}"
    suffix = f"#{place}" if place else ""
    label = f"{kind}>{name}"[-100:] + suffix
    return Registered(kind, HandlerCall(handler, persons), key_of(label), label)


def key_of(label: str) -> str:
    return "on:" + hashlib.sha256(label.encode()).hexdigest()[:24]
