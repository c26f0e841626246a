"""怎样送一份：POST 到一个 URL（签名，看回答说什么），或交给进程内的处理器。重试、次序是
``sender`` 的事。

URL 的不跟重定向；一次至多 ``TIMEOUT_S``；2xx 的头到了就是收下，正文是什么样都不管：只读开头，多的不
要，连接也不要了；不走代理，不带 cookie；证书总要验。
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import UnavailableError
from ..version import __version__
from .config import WebhookConfig
from .signature import signature
from .units import Persons, PushEvent, Unit, body_of, introduced, itself

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.client_proto import ResponseHandler

TIMEOUT_S: Final = 15.0
#: 一个接收者同时几次。
CONNECTIONS: Final = 8
#: 闲着的连接留这么久：比各家服务器关它的时候早。
KEEP_ALIVE_S: Final = 4.0
#: 回答的正文读这么多：够说清为什么。
MOST_ANSWER_BYTES: Final = 16_384
#: ``Retry-After`` 至多听这么久。
MOST_RETRY_AFTER_S: Final = 3_600.0
#: 头到了之后，正文再等这么久。
_ANSWER_S: Final = 2.0
_GONE: Final = 410
#: 说的是它此刻不行，不是这一份不行。
_ITS_OWN_FAULT: Final = frozenset({408, 421, 425, 429})


class Verdict(Enum):
    DONE = auto()
    #: 再来。
    AGAIN = auto()
    #: 它不要这一份。
    REFUSED = auto()
    #: 它说自己没有了：别再来。
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """``why`` 给人看，不含 URL、密钥；``pause_s``：它要我们歇多久。"""

    verdict: Verdict
    why: str = ""
    pause_s: float = 0


class Delivery(Protocol):
    """怎样送一份：到一个 URL，或交给进程内的处理器。不抛出。"""

    async def deliver(self, unit: Unit) -> Answer: ...

    async def close(self) -> None: ...


class WebhookPost:
    """一个接收者一个；连接在第一次用时才有。没有接收者的不付 aiohttp 的十分之一秒。"""

    def __init__(
        self,
        config: WebhookConfig,
        persons: Persons = itself,
        *,
        timeout_s: float = TIMEOUT_S,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        from aiohttp import ClientError
        from yarl import URL

        self._config = config
        self._persons = persons
        self._clock_s = clock_s
        self._broken = (ClientError, OSError, ValueError)
        self._url = URL(config.url, encoded=True)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, unit: Unit) -> Answer:
        return await self.send(unit.webhook_id, await introduced(unit, self._persons))

    async def send(self, webhook_id: str, events: Sequence[PushEvent]) -> Answer:
        """签名的时刻是此刻：每次重来都重新签。"""
        body = body_of(list(events))
        try:
            return await self._post(body, self._headers(webhook_id, body))
        except TimeoutError:
            return Answer(Verdict.AGAIN, f"no answer in {self._timeout_s:g} s")
        except self._broken as error:
            return Answer(Verdict.AGAIN, f"no answer: {type(error).__name__}")

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        session = self._opened()
        async with asyncio.timeout(self._timeout_s):
            response = await session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            )
        async with response:
            said = await self._said(response)
            return judged(response.status, response.headers.get("Retry-After"), said)

    def _headers(self, webhook_id: str, body: bytes) -> dict[str, str]:
        timestamp = int(self._clock_s())
        return {
            "Content-Type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._config.keys, webhook_id, timestamp, body),
        }

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
            # 没有公开的办法；``test_post`` 守着它还管用
            made = partial(_head_first(), loop=asyncio.get_running_loop())
            connector._factory = made
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={"User-Agent": f"meeting-push/{__version__}"},
            )
        return self._session

    async def _said(self, response: aiohttp.ClientResponse) -> bytes:
        """正文的开头；读不成的是空的：状态已经说了收下没有。"""
        said = b""
        try:
            async with asyncio.timeout(_ANSWER_S):
                said = await response.content.read(MOST_ANSWER_BYTES)
        except (TimeoutError, *self._broken):
            response.close()
        if not response.content.at_eof():
            response.close()  # 没读完的连接不能再用
        return said


@cache
def _head_first() -> type[ResponseHandler]:
    from aiohttp.client_proto import ResponseHandler

    class HeadFirst(ResponseHandler):
        """先认下回答的头，再看后面的：204 带着正文这样的，解析器说不出是几就作废了。"""

        def data_received(self, data: bytes) -> None:
            head, blank, rest = data.partition(b"\r\n\r\n")
            super().data_received(head + blank)
            if rest and self.transport is not None and not self.transport.is_closing():
                super().data_received(rest)

    return HeadFirst


def judged(status: int, retry_after: str | None, said: bytes) -> Answer:
    if 200 <= status < 300:
        return Answer(Verdict.DONE, f"HTTP {status}")
    why = f"HTTP {status}"
    if 300 <= status < 400:
        return Answer(Verdict.AGAIN, f"{why}: redirects are not followed")
    if words := " ".join(said[:120].decode(errors="replace").split()):
        why = f"{why}: {words}"
    if status == _GONE:
        return Answer(Verdict.GONE, why)
    pause_s = _seconds(retry_after)
    refused = 400 <= status < 500 and status not in _ITS_OWN_FAULT
    return Answer(Verdict.REFUSED if refused else Verdict.AGAIN, why, pause_s)


def _seconds(retry_after: str | None) -> float:
    """只认秒数；写成日期的很少，按自己的节奏来。"""
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return 0
    return min(float(retry_after[:6]), MOST_RETRY_AFTER_S)


# ── 进程内的处理器：push.on("message.delivered", handler) ─────────────────────────
#
# 集群里登记了同一个处理器（模块与名字相同）的几个进程，同一个事件由其中一个做。

#: 一个事件做这么久还没完，就算没有做成。
HANDLER_TIMEOUT_S: Final = 15.0
#: 同步的处理器在旁边的线程里；挂住的线程结束不了，一个处理器至多这么多条。
MOST_THREADS: Final = 8

#: 拿到一个事件：``id``（去重用它）、``type``、``timestamp``、``data``。同步的在旁边的线程里做。
Handler = Callable[[PushEvent], Awaitable[None] | None]


class HandlerCall:
    """叫一个处理器；实现 ``Delivery``。"""

    def __init__(
        self, handler: Handler, persons: Persons = itself, timeout_s: float = HANDLER_TIMEOUT_S
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
