"""门厅：每条新连接先到这里，看完请求头，才知道该交给谁。

用户连接升级之后交给 picows，事件流（SSE）交给 ``event_socket``；别的 WebSocket 交给 uvicorn 的
协议，网关角色的探针交给 ``ops_http``。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from ..http.doorway import Doorway
from ..http.listener import has_left
from ..http.refusals import (
    AT_ONCE,
    BAD_REQUEST,
    CROWDED,
    FOREIGN_ORIGIN,
    HEAD_TOO_LARGE,
    NO_STREAM,
    NOT_FOUND,
    TOO_SLOW,
    Refusal,
    say_farewell,
)
from ..http.request_ids import HEADER
from ..http.upgrade_request import END_OF_HEAD, MAX_HEAD_BYTES, MAX_HEADERS, UpgradeRequest
from ..limits.rate import rate_key
from ..person_id import PersonId
from .admission import Deadlines
from .event_socket import EventDoor
from .handshake import PATH_PREFIX, STREAM_PREFIX, Handshake, person_in_path
from .manager import ConnectionManager

_PROBES: Final = (b"GET /healthz ", b"GET /readyz ", b"HEAD /healthz ", b"HEAD /readyz ")
#: 一次合格的握手 → 升级之后的 protocol（``asyncio.BufferedProtocol`` 的样子）。
Upgraded = Callable[[Handshake], Any]
#: 轮到了：与已收到的字节一起开始。
Begin = Callable[[bytes], None]


class Front(asyncio.Protocol):
    """新连接的门厅：看完请求头，换上该用的 protocol，然后放手。"""

    __slots__ = (
        "_deadlines",
        "_fallback",
        "_head",
        "_late",
        "_manager",
        "_request",
        "_streams",
        "_successor",
        "_take",
        "_timer",
        "_transport",
        "_upgraded",
    )

    def __init__(
        self,
        manager: ConnectionManager,
        deadlines: Deadlines,
        fallback: Callable[[], asyncio.Protocol],
        upgraded: Upgraded,
        streams: EventDoor,
    ) -> None:
        """``deadlines``：说完要什么的期限，到期时调用 ``too_slow``。"""
        self._manager = manager
        self._deadlines = deadlines
        self._fallback = fallback
        self._upgraded = upgraded
        self._streams = streams
        self._head = bytearray()
        #: 调用者（uvicorn）在我们返回后还要把我们设为 protocol，所以晚一步再换。
        self._late = True
        #: 读懂了的请求；拒绝时还要看。
        self._request: UpgradeRequest | None = None
        #: 收到的字节此刻归谁。
        self._take: Callable[[bytes], None] = self._gather
        self._successor: Any = None
        self._transport: asyncio.Transport
        #: 拒绝了，还没有说。
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadlines.start(self)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def _gather(self, data: bytes) -> None:
        if not self._head and (end := data.find(END_OF_HEAD, 0, MAX_HEAD_BYTES)) >= 0:
            self._choose(data, end + len(END_OF_HEAD))  # 常情：一次就收齐了
            return
        searched = max(0, len(self._head) - len(END_OF_HEAD))
        self._head += data
        end = self._head.find(END_OF_HEAD, searched, MAX_HEAD_BYTES)
        if end >= 0:
            received, self._head = bytes(self._head), bytearray()
            self._choose(received, end + len(END_OF_HEAD))
        elif len(self._head) >= MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)

    def _choose(self, received: bytes, end: int) -> None:
        """请求头完整了：不是用户连接的交给别人，是的就 4xx 或者升级。"""
        request = self._request = UpgradeRequest.parse(received[:end])
        if received.count(b"\r\n", 0, end) > MAX_HEADERS + 2:
            self._refuse(HEAD_TOO_LARGE)
        elif request is None:
            self._refuse(BAD_REQUEST)
        elif request.path.startswith(PATH_PREFIX) and not _is_unix(self._transport):
            refusal = self._upgrade(request, received[end:])
            if refusal is not None:
                self._refuse(refusal)
        elif not self._late and request.path.startswith(STREAM_PREFIX):
            self._ask_for_stream(request, received[end:])
        else:
            self._hand_on(received)

    def _ask_for_stream(self, request: UpgradeRequest, rest: bytes) -> None:
        granted = self._streams.preflight(request)
        if granted is not None:
            self._stop_waiting()
            self._take = _ignore
            say_farewell(self._transport, granted)
        elif (refusal := self._stream(request, rest)) is not None:
            self._refuse(refusal)

    def _hand_on(self, received: bytes) -> None:
        """不是我们的。"""
        self._stop_waiting()
        self._install(self._fallback())
        self._take = self._successor.data_received
        self._take(received)

    def _upgrade(self, request: UpgradeRequest, rest: bytes) -> Refusal | None:
        person = person_in_path(request.path, self._manager.authenticator.ids)
        if person is None:
            return NOT_FOUND
        refusal = request.refusal()
        if refusal is not None:
            return refusal
        handshake = handshake_of(request, person, self._transport, self._manager)
        if not self._manager.origin_allowed(handshake):
            return FOREIGN_ORIGIN
        self._stop_waiting()
        self._request = None  # 里面有令牌
        received, wait_s = request.minimal() + rest, self._manager.upgrade_delay_s(handshake)
        begin = partial(self._begin_upgraded, handshake)
        if wait_s:
            self._hold(begin, received, wait_s)
        else:
            begin(received)
        return None

    def _begin_upgraded(self, handshake: Handshake, received: bytes) -> None:
        self._succeed(self._upgraded(handshake), received)

    def _hold(self, begin: Begin, received: bytes, wait_s: float) -> None:
        """还没轮到他；先走的听得出。"""
        self._late, self._take = False, self._overhear  # 轮到时早已设好了
        self._head += received
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._released, begin)

    def _overhear(self, data: bytes) -> None:
        self._head += data
        if len(self._head) > 2 * MAX_HEAD_BYTES:  # 没有 101 就说个不停
            self._transport.abort()

    def _released(self, begin: Begin) -> None:
        self._timer = None
        received, self._head = bytes(self._head), bytearray()
        if has_left(self._transport):  # 没有等到就走了：不必办
            self._transport.abort()
        else:
            begin(received)

    def take(self, request: UpgradeRequest, rest: bytes) -> None:
        """HTTP 一侧读好了的、合规矩的请求；我们已是 protocol。"""
        self._late, self._request = False, request
        stream = request.target.startswith(STREAM_PREFIX)
        refusal = self._stream(request, rest) if stream else self._upgrade(request, rest)
        if refusal is not None:
            self._refuse(refusal)

    def _stream(self, request: UpgradeRequest, rest: bytes) -> Refusal | None:
        """换上一条事件流；我们已是 protocol。"""
        person = person_in_path(request.path, self._manager.authenticator.ids)
        if person is None:
            return NO_STREAM
        refusal = request.stream_refusal()
        if refusal is not None:
            return refusal
        handshake = handshake_of(request, person, self._transport, self._manager)
        if not self._manager.origin_allowed(handshake):
            return FOREIGN_ORIGIN
        self._stop_waiting()
        self._request = None
        begin = partial(self._begin_stream, self._streams.open(request, handshake))
        wait_s = self._manager.upgrade_delay_s(handshake)
        if wait_s:
            self._hold(begin, rest, wait_s)
        else:
            begin(rest)
        return None

    def _begin_stream(self, stream: asyncio.Protocol, rest: bytes) -> None:
        self._take = _ignore
        stream.connection_made(self._transport)
        self._transport.set_protocol(stream)
        if rest:
            stream.data_received(rest)

    def _succeed(self, successor: Any, received: bytes) -> None:
        if self._late:
            self._install(successor)
            self._take = partial(feed, self._transport, successor)
            self._take(received)
        else:
            self._take = _ignore
            successor.connection_made(self._transport)
            self._transport.set_protocol(successor)
            feed(self._transport, successor, received)

    def _install(self, successor: Any) -> None:
        self._successor = successor
        successor.connection_made(self._transport)
        asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._transport.set_protocol(self._successor)
        self._successor, self._take = None, _ignore

    def too_slow(self) -> None:
        """慢吞吞不说要什么的（slowloris）；一个字没说的不必回答，浏览器会这样预连。"""
        if self._head:
            self._refuse(TOO_SLOW)
        else:
            self._transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        self._stop_waiting()
        self._take, self._head = _ignore, bytearray()
        delay_s = 0.0 if refusal in AT_ONCE else self._refusal_delay_s()
        if delay_s:
            self._transport.pause_reading()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self._say, refusal)
        else:
            self._say(refusal)

    def _refusal_delay_s(self) -> float:
        manager = self._manager
        peer: Sequence[object] = self._transport.get_extra_info("peername") or ("",)
        request = self._request
        forwarded = () if request is None else request.values("x-forwarded-for")
        address = manager.authenticator.proxies.client_address(str(peer[0]), forwarded)
        return manager.admission.refusal_delay_s(rate_key(address))

    def _say(self, refusal: Refusal) -> None:
        self._timer = None
        if not self._transport.is_closing():
            if not self._transport.is_reading():
                self._transport.resume_reading()
            say_farewell(self._transport, self._answer(refusal))

    def _answer(self, refusal: Refusal) -> bytes:
        """带着请求里的 X-Request-ID；页面用 ``fetch`` 问的，名单里的来源读得到。"""
        request = self._request
        if request is None:
            return refusal.answer()
        given = request.values(HEADER)
        stream = request.target.startswith(STREAM_PREFIX)
        more = self._streams.granted(request) if stream else ()
        return refusal.answer(given[0] if given else "", more)

    def eof_received(self) -> bool | None:
        return None if self._successor is None else self._successor.eof_received()

    def _stop_waiting(self) -> None:
        self._deadlines.stop(self)
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._take = _ignore  # 不再指着自己
        if self._successor is not None:
            self._successor.connection_lost(exc)


class BareFront(Front):
    """没有 uvicorn 在前：描述符与一个地址的 HTTP 连接也由门厅看着。"""

    __slots__ = ("_crowded", "_doorway")

    def __init__(
        self,
        manager: ConnectionManager,
        deadlines: Deadlines,
        ops: Callable[[], asyncio.Protocol],
        upgraded: Upgraded,
        streams: EventDoor,
        doorway: Doorway,
    ) -> None:
        super().__init__(manager, deadlines, ops, upgraded, streams)
        self._late = False
        self._doorway = doorway
        self._crowded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._crowded = self._doorway.crowded(transport)
        if self._crowded and self._doorway.walled(transport):
            self._transport.abort()
        else:
            peer: Sequence[object] = transport.get_extra_info("peername") or ("",)
            self._doorway.arrive(self, str(peer[0]), asyncio.get_running_loop())

    def _choose(self, received: bytes, end: int) -> None:
        self._doorway.busy(self)
        if self._doorway.left(self._transport):
            return
        if self._crowded and not received.startswith(_PROBES):
            self._refuse(CROWDED)
        else:
            super()._choose(received, end)

    def _refuse(self, refusal: Refusal) -> None:
        self._doorway.wait(self)  # 缺描述符时它先让位
        self._doorway.turned_away[refusal.code] += 1
        if refusal is CROWDED:  # 请求读完了，不必等它先走：它占着的正是缺的
            self._stop_waiting()
            self._transport.write(self._answer(refusal))
            self._transport.close()
        else:
            super()._refuse(refusal)

    def _hold(self, begin: Begin, received: bytes, wait_s: float) -> None:
        self._doorway.wait(self)  # 同上
        super()._hold(begin, received, wait_s)

    def _released(self, begin: Begin) -> None:
        self._doorway.busy(self)
        super()._released(begin)

    def evict(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._doorway.busy(self)
        super().connection_lost(exc)


def _ignore(_data: bytes) -> None:
    """拒绝了，或已交给别人。"""


def feed(transport: asyncio.Transport, protocol: Any, data: bytes) -> None:
    """把 ``data`` 当作刚收到的交给一个 ``BufferedProtocol``。"""
    rest = memoryview(data)
    while rest and not transport.is_closing():
        room = protocol.get_buffer(-1)
        part = rest[: len(room)]
        room[: len(part)] = part
        protocol.buffer_updated(len(part))
        rest = rest[len(part) :]


def handshake_of(
    request: UpgradeRequest,
    person: PersonId,
    transport: asyncio.Transport,
    manager: ConnectionManager,
) -> Handshake:
    peer: Sequence[object] = transport.get_extra_info("peername") or ("",)
    proxies = manager.authenticator.proxies
    address = proxies.client_address(str(peer[0]), request.values("x-forwarded-for"))
    return Handshake(person, request.query, request.named, address)


def _is_unix(transport: asyncio.Transport) -> bool:
    """picows 要设 TCP 选项，unix socket 上不行；那里由普通的 ASGI 路由接着。"""
    return not isinstance(transport.get_extra_info("peername"), tuple)
