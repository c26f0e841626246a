"""没有 WebSocket 时的那条路：收在事件流（SSE）上，说在 REST 上。"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from ..protocol import frames
from ..protocol.codes import CloseCode
from . import wire
from .endpoint import ClientOptions
from .errors import ApiError, NotConnectedError, ServerUnreachableError
from .rest_call import HttpAnswer, HttpCaller, HttpRequest, seconds_of
from .rest_client import api_error, post
from .transports import End, NotOpenedError, TransportKind, unanswered

if TYPE_CHECKING:
    import aiohttp

#: 拒绝是 HTTP 的回答；码与 WebSocket 的关闭码一个意思。
_CODES: Final = {
    "token_expired": CloseCode.TOKEN_EXPIRED,
    "token_not_yet_valid": CloseCode.TOKEN_EXPIRED,
    **{
        code.reason: code
        for code in (
            CloseCode.FORBIDDEN,
            CloseCode.REVOKED,
            CloseCode.KICKED,
            CloseCode.PROTOCOL_VIOLATION,
            CloseCode.REPLACED,
        )
    },
}
#: 应用来不及处理时替它存着几帧；再多就不读了（背压一直传到 TCP）。
_READ_AHEAD: Final = 64
#: 一行的开头是名，冒号之后可有一个空格；行尾的单个 CR 要等下一个字节才知道是不是 CRLF。
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


class EventReader:
    """``text/event-stream`` 的一段段字节 →（事件名, 数据）；``id``、``retry`` 用不着。"""

    def __init__(self) -> None:
        self._rest = b""
        self._event = b""
        self._data: list[bytes] = []

    @property
    def held(self) -> int:
        """还没有成为事件的字节数。"""
        return len(self._rest) + sum(map(len, self._data))

    def push(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> tuple[bytes, bytes] | None:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event":
                self._event = value
            elif name == b"data":
                self._data.append(value)
            return None
        found = (self._event, b"\n".join(self._data)) if self._data else None
        self._event, self._data = b"", []
        return found


class StreamTransport:
    """收在流上，说在 REST 上：确认与已读说得了，别的（状态、关注）等换回 WebSocket。"""

    kind: TransportKind = "sse"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        response: aiohttp.ClientResponse,
        rest: HttpCaller,
        token: str,
        options: ClientOptions,
    ) -> None:
        self._session = session
        self._response = response
        self._rest = rest
        self._token = token
        self._options = options
        self._frames: asyncio.Queue[wire.AnyServerFrame | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._closed = asyncio.Event()
        self._end = End(None, "stream_ended")
        self._reading = asyncio.create_task(self._read())

    # ── 收 ──────────────────────────────────────────────────────────────────

    async def receive(self) -> wire.AnyServerFrame | None:
        if not self._frames.empty():
            return self._taken(self._frames.get_nowait())
        closed = asyncio.ensure_future(self._closed.wait())
        frame = asyncio.ensure_future(self._frames.get())
        try:
            await asyncio.wait({closed, frame}, return_when=asyncio.FIRST_COMPLETED)
            if frame.done():
                return self._taken(frame.result())
        finally:
            closed.cancel()
            frame.cancel()
        raise EOFError

    def _taken(self, frame: wire.AnyServerFrame | None) -> wire.AnyServerFrame | None:
        self._room.set()
        return frame

    async def _read(self) -> None:
        try:
            self._end = await self._follow()
        except TimeoutError:
            self._end = End(None, "server_silent")
        except Exception as error:  # noqa: BLE001 — aiohttp 的、套接字的：都是断了
            self._end = End(None, type(error).__name__)
        finally:
            self._closed.set()

    async def _follow(self) -> End:
        events = EventReader()
        async for chunk in self._chunks():
            for name, data in events.push(chunk):
                if name == b"close":
                    return _farewell(data)
                await self._admit(wire.decode(data))
            if events.held > self._options.max_frame_bytes:
                return End(None, "frame_too_big")
        return End(None, "stream_ended")

    async def _chunks(self) -> AsyncIterator[bytes]:
        """服务器每 15 秒至少一行注释：这么久一个字节也没有，就是没有它了。"""
        while True:
            async with asyncio.timeout(self._options.silent_after_s):
                chunk = await self._response.content.readany()
            if not chunk:
                return
            yield chunk

    async def _admit(self, frame: wire.AnyServerFrame | None) -> None:
        while self._frames.qsize() >= _READ_AHEAD:
            self._room.clear()
            await self._room.wait()
        self._frames.put_nowait(frame)

    # ── 说 ──────────────────────────────────────────────────────────────────

    async def send(self, frame: frames.ClientFrame) -> None:
        if self._closed.is_set():
            raise NotConnectedError("the stream is closed")
        match frame:
            case frames.AckFrame():
                self._frames.put_nowait(await self._acknowledge(frame))
            case frames.ReadFrame():
                await self._call(post("/messages/read", {"message_ids": frame.message_ids}))
            case _:
                raise NotConnectedError("not over SSE: say it when WebSocket is back")

    async def _acknowledge(self, frame: frames.AckFrame) -> wire.AnyServerFrame:
        """REST 的回答，说成 WebSocket 上会有的那一帧。"""
        try:
            await self._call(post("/acks", {"message_ids": frame.message_ids}, idempotent=True))
        except (ApiError, ServerUnreachableError) as error:
            # 令牌刚过期的（401）也会好：流随后以 4004 结束，下一条用新的
            passing = error.temporary or (
                isinstance(error, ApiError) and error.status < HTTPStatus.UNPROCESSABLE_ENTITY
            )
            return frames.ErrorFrame(
                code=error.code, message="acks", temporary=passing, request_id=frame.request_id
            )
        assert frame.request_id is not None, "every ack of ours has one"
        count = len(frame.message_ids or ())
        return frames.AckResult(accepted=count, unknown=[], request_id=frame.request_id)

    async def _call(self, request: HttpRequest) -> None:
        signed = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        answer = await self._rest.call(
            HttpRequest(request.method, request.path, signed, request.body, request.idempotent)
        )
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise api_error(answer)

    # ── 结束 ────────────────────────────────────────────────────────────────

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        self._response.close()
        await self._session.close()

    @property
    def end(self) -> End:
        return self._end


class _Farewell(msgspec.Struct):
    code: int | None = None
    name: str = ""


def _farewell(data: bytes) -> End:
    try:
        last = msgspec.json.decode(data, type=_Farewell)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return End(None, "stream_ended")
    return End(last.code, last.name)


async def open_stream(
    url: str, token: str, rest: HttpCaller, options: ClientOptions
) -> StreamTransport:
    """回答了 200；令牌在头里，不跟随重定向，不用环境里的代理。

    :raises NotOpenedError: 没有连上，或被拒绝
    """
    import aiohttp  # 十分之一秒：不走这条路的不必付
    from yarl import URL

    headers = {
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {token}",
    }
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=options.ssl or True, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )
    try:
        async with asyncio.timeout(options.open_timeout_s):
            address = URL(url, encoded=True)
            response = await session.get(address, headers=headers, allow_redirects=False)
            await _require_stream(response)
    except NotOpenedError:
        await session.close()
        raise
    except (aiohttp.ClientError, OSError) as error:
        await session.close()
        raise NotOpenedError(unanswered(error)) from None
    except BaseException:  # 取消
        await session.close()
        raise
    return StreamTransport(session, response, rest, token, options)


async def _require_stream(response: aiohttp.ClientResponse) -> None:
    if response.status != HTTPStatus.OK:
        raise NotOpenedError(_refused_stream(await _answer_of(response)))
    if response.content_type != "text/event-stream":
        raise NotOpenedError(End(None, "not_a_stream"))


async def _answer_of(response: aiohttp.ClientResponse) -> HttpAnswer:
    body = await response.content.read(64 * 1024)  # 代理的页面不必看完
    return HttpAnswer(response.status, body, seconds_of(response.headers.get("Retry-After", "")))


def _refused_stream(answer: HttpAnswer) -> End:
    error = api_error(answer)
    code: int | None = _CODES.get(error.code)
    if code is None and answer.status == HTTPStatus.UNAUTHORIZED:
        code = CloseCode.INVALID_TOKEN
    return End(code, error.code, answer.status, answer.retry_after_s or 0)
