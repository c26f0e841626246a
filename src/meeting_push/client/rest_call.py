"""一次 HTTP 调用：aiohttp 的连接池，不用线程。

REST 回答的样子；服务器多给的字段被忽略。
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from ssl import create_default_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from ..model import Accepted, RecipientState
from ..person_id import PersonId
from ..protocol.frames import NewMessageTail
from .endpoint import Endpoint, RestOptions
from .errors import ServerUnreachableError

if TYPE_CHECKING:
    import aiohttp

#: 闲着的连接养这么久：短于服务器的 65 秒与代理常用的 60 秒，少碰上它们恰在此时关闭。
KEEP_ALIVE_S: Final = 30


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``idempotent``：做两次与做一次一样，可以用闲着的连接，也可以重试。"""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None = None
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """``retry_after_s``：服务器没说，或说的是日期，就是 None。"""

    status: int
    body: bytes
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class _Pool:
    """一个事件循环的连接。排队的在 ``room`` 外面等，不算在超时里。"""

    session: aiohttp.ClientSession
    room: asyncio.Semaphore
    keeper: AsyncGenerator[None]


class HttpCaller:
    """可并发调用；不跟随重定向，不看 ``HTTP_PROXY``，不记 cookie。

    连接属于调用时的事件循环，每个循环（``fork`` 之后的也是）各有一份；忘了关的，
    循环结束时关，或随它自己一起被回收。
    """

    def __init__(self, endpoint: Endpoint, options: RestOptions) -> None:
        self._base = endpoint.rest_url
        self._options = options
        self._ssl = (options.ssl or create_default_context()) if endpoint.secure else True
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        weakref.finalize(self, _abandon, self._pools)

    async def call(self, request: HttpRequest) -> HttpAnswer:
        """取消时连接随之关闭；请求可能已被执行。

        :raises ServerUnreachableError: 没有得到完整的回答；请求可能已被执行
        """
        if not request.idempotent:
            return await self._alone(request)
        pool, reused = await self._pool(), list[object]()
        async with pool.room:
            try:
                return await self._exchange(pool.session, request, reused)
            except ServerUnreachableError as error:
                if not (reused and _closed(error.__cause__)):
                    raise
            # 服务器关了闲着的这一条，不是没有它：马上换一条新的
            return await self._alone(request)

    async def aclose(self) -> None:
        """关掉此刻的循环养着的连接；之后还可以调用，另开就是。"""
        if pool := self._pools.pop(asyncio.get_running_loop(), None):
            await pool.keeper.aclose()

    async def _alone(self, request: HttpRequest) -> HttpAnswer:
        """用一条新的连接，用完即关。"""
        async with self._session() as session:
            return await self._exchange(session, request, [])

    async def _exchange(
        self, session: aiohttp.ClientSession, request: HttpRequest, reused: list[object]
    ) -> HttpAnswer:
        """``reused`` 里有了东西，就是用了闲着的连接。"""
        from aiohttp import ClientError
        from yarl import URL

        try:
            async with session.request(
                request.method,
                URL(self._base + request.path, encoded=True),
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                trace_request_ctx=reused,
            ) as answer:
                retry_after = answer.headers.get("Retry-After", "")
                return HttpAnswer(answer.status, await self._body(answer), seconds_of(retry_after))
        except (ClientError, OSError) as error:  # 超时是 OSError
            raise ServerUnreachableError(f"no answer: {type(error).__name__}") from error

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        """太大的不要：空的正文不是任何一种回答。"""
        limit, parts, size = self._options.max_answer_bytes, list[bytes](), 0
        async for part in answer.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > limit:
                answer.close()
                return b""
        return b"".join(parts)

    async def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for ended in [each for each in self._pools if each.is_closed()]:
                _close_now(self._pools.pop(ended))
            session = self._session()
            room = asyncio.Semaphore(self._options.max_connections)
            pool = self._pools[loop] = _Pool(session, room, _keep(session))
            await anext(pool.keeper)
        return pool

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp  # 十分之一秒：不调用 REST 的不必付

        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            # 不要压缩：解开之前不知道有多大
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=self._options.timeout_s),
            trace_configs=[reuse],
        )


async def _note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.append(True)


def _closed(cause: BaseException | None) -> bool:
    """服务器关闭了连接，而不是等不到它。"""
    from aiohttp import ClientConnectionError

    return isinstance(cause, ClientConnectionError) and not isinstance(cause, TimeoutError)


async def _keep(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """循环结束之前（``shutdown_asyncgens``）关：之后就关不了了。"""
    try:
        yield
    finally:
        await session.close()


def _abandon(pools: dict[asyncio.AbstractEventLoop, _Pool]) -> None:
    """没有 ``aclose`` 的：在各自的循环里关；我们可能在别的线程里（垃圾回收）。"""
    for loop, pool in pools.items():
        if loop.is_closed() or loop is asyncio._get_running_loop():
            _close_now(pool)
        else:
            with suppress(RuntimeError):  # 恰在此时关了
                loop.call_soon_threadsafe(_close_now, pool)


def _close_now(pool: _Pool) -> None:
    """各走一步就够：套接字当场关，不等对方告别；循环已关的也走得了这一步。"""
    for closing in (pool.session.close(), pool.keeper.aclose()):
        with suppress(StopIteration):
            closing.send(None)
        closing.close()


def seconds_of(retry_after: str) -> float | None:
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None


class Registered(Struct, frozen=True):
    user_id: int
    username: str


class Tokens(Struct, frozen=True):
    """登录或刷新的结果；``expires_in_s`` 说的是访问令牌。"""

    access_token: str
    refresh_token: str
    expires_in_s: int
    user_id: int

    def __repr__(self) -> str:
        # repr 常常进日志（SEC-2）
        return f"Tokens(user_id={self.user_id}, expires_in_s={self.expires_in_s})"


class InboxMessage(NewMessageTail, frozen=True, kw_only=True):
    """收件箱里的一条；``read_at`` 为 None 即未读，``status`` 是对本人的投递状态。

    ``broadcast``：发给所有人的；``withdrawn_at``：撤回了，标题、正文是空的。
    """

    read_at: int | None = None
    archived_at: int | None = None
    status: str | None = None
    broadcast: bool = False
    withdrawn_at: int | None = None


class InboxPage(Struct, frozen=True):
    """一页，新的在前；``next_cursor`` 为 None 即没有了。"""

    items: list[InboxMessage]
    unread_count: int
    next_cursor: str | None = None


class SentTo(Struct, frozen=True):
    """``name`` 是名册说看得见的；不然为 None。"""

    user_id: PersonId
    name: str | None = None


class SentMessage(InboxMessage, frozen=True, kw_only=True):
    """自己发的一条；``recipient_count`` 是 0：发给所有人的。``recipients``：头几个收件人。"""

    recipient_count: int
    deliver_at: int | None = None
    recipients: list[SentTo] = field(default_factory=list)


class SentPage(Struct, frozen=True):
    """一页可以是短的：``next_cursor`` 为 None 才到底。"""

    items: list[SentMessage]
    next_cursor: str | None = None


class Counts(Struct, frozen=True):
    """``unread``、``urgent`` 不数归档的；``version`` 只增：小的是旧的。"""

    unread: int
    urgent: int
    archived: int
    version: int


class StateChange(Struct, frozen=True):
    """``unknown``：不是自己的、不存在的。"""

    unread_count: int
    version: int
    unknown: list[str]


class UserPresence(Struct, frozen=True):
    """``connections`` 只有自己与管理员看得到。"""

    user_id: PersonId
    online: bool
    connection_count: int | None = None
    connections: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class RecipientReport(RecipientState):
    """:class:`DeliveryReport` 里的一个收件人；``name`` 是名册说看得见的，不然为 None。"""

    name: str | None = None


class DeliveryReport(Struct, frozen=True):
    """一条消息的投递状态：各状态人数与一页收件人。

    广播的总人数不得而知：``total``、``pending`` 为 None，``recipients`` 为空。
    """

    message_id: str
    total: int | None
    pending: int | None
    delivered: int
    failed: int
    expired: int
    recipients: list[RecipientReport]
    next_cursor: str | None = None
    withdrawn: int = 0


class DeliveryStatistics(Struct, frozen=True):
    """一个用户在窗口内的投递统计。"""

    sent: int
    delivered: int
    failed: int
    expired: int
    pending: int
    withdrawn: int = 0


class BatchResults(Struct, frozen=True):
    results: list[Accepted]


class Unread(Struct, frozen=True):
    unread_count: int


class ErrorDetail(Struct, frozen=True):
    code: str
    message: str
    temporary: bool = False
    details: object = None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail
