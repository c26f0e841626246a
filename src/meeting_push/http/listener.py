"""听着的端口：连来就走的人不许在门外排起队。

事件循环自己的服务器一圈接一条，有人连来就走、每秒上万条，别人就在内核的队里等几秒，队满了连 SYN
也丢（A14）。所以自己接：走了的当场关掉（约 13 µs，办一条要十倍百倍），见到就歇一歇，与他同一个
地址的歇过之后还在才进来，别处的当场就进来；一次进来几条，不让一圈太长。
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..limits.rate import rate_key
from ..logs import logger
from .syn_filter import SynFilter

BACKLOG: Final = 4096
#: 一次至多关掉这么多条走了的：约 3 ms。循环忙的几毫秒里排起的队也要一次扫完：每秒两万条时 96 条
#: 追不上，后面的人等几十毫秒。
SWEPT_AT_ONCE: Final = 256
#: 一次至多进来这么多条还在的。
ENTERING_AT_ONCE: Final = 8
#: 与走了的同一个地址的，至多这么多条等着看还在不在。
LOBBY: Final = 64
#: 见到走了的之后歇这么久，秒：每一歇都是别人的握手在等（2 毫秒时老实人的握手从 1 到 7 ms）。
REST_S: Final = 0.001
#: 一个地址有走了的，这么久之内从那里来的都先看一看，秒。
WATCHED_S: Final = 1.0
#: 至多看着这么多个地址；忘掉的当作没有走过，只是多办几条。
MOST_WATCHED: Final = 1_024
#: 描述符用完了，过这么久再接，秒。
EXHAUSTED_S: Final = 0.1
#: ASGI scope 里这个请求的连接（``Line``）；别的服务器没有。
LINE: Final = "meeting_push.line"
#: 同上：请求体没有读完就拒绝了，收下的不必留着（``() -> None``）。
UNWANTED: Final = "meeting_push.unwanted"
#: Linux 的 ``TCP_CLOSE``（对方的 RST）与 ``TCP_CLOSE_WAIT``：对方已经说完再见了。
_GONE: Final = (7, 8)
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)


class Line(Protocol):
    """传输里用得着的。"""

    def is_closing(self) -> bool: ...

    def get_extra_info(self, name: str) -> object: ...


class Listener:
    """一个端口；像 ``asyncio.Server``，``close`` 之后不再接，已经进来的照常。"""

    def __init__(
        self,
        sock: socket.socket,
        arrived: Callable[[], asyncio.Protocol],
        left: Callable[[int], None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """``sock`` 已绑定，从此归这里关；``arrived`` 给每条连接一个 protocol。

        :param left: 又有几条接来时已经走了
        :raises OSError: 听不了
        """
        sock.setblocking(False)
        self._sock = sock
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        self._arrived = arrived
        self._left = left
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        #: 接来时还在、那个地址刚有走了的：歇过之后还在，才进来。
        self._lobby: list[socket.socket] = []
        #: 有走了的地址 → 最近一次是何时；最久没有的在前。
        self._watched: dict[str, float] = {}
        self._entering: set[asyncio.Task[Any]] = set()
        self._syns = SynFilter(sock)
        sock.listen(BACKLOG)
        self._listen()

    def close(self) -> None:
        """可以再来一次。"""
        if self._resting is not None:
            self._resting.cancel()
        elif self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
        self._syns.close()
        self._sock.close()
        for sock in self._lobby:
            sock.close()
        self._lobby.clear()

    async def wait_closed(self) -> None:
        """正在进来的都进来了。"""
        await asyncio.gather(*self._entering, return_exceptions=True)

    def _listen(self) -> None:
        self._resting = None
        lobby, self._lobby = self._lobby, []
        for sock in lobby:
            if self._left_meanwhile(sock):
                self._left(1)
            else:
                self._enter(sock)
        self._loop.add_reader(self._sock, self._accept)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock)
        self._resting = self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        entered, gone, rest_s = 0, 0, 0.0
        now = self._loop.time()
        while entered < ENTERING_AT_ONCE and len(self._lobby) < LOBBY and gone < SWEPT_AT_ONCE:
            try:
                sock, place = self._next()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                logger.bind(error=str(error)).debug("accept_failed")
                rest_s = EXHAUSTED_S
                break
            if self._left_meanwhile(sock):
                gone += 1
                self._watch(place, now)
            elif now - self._watched.get(place, float("-inf")) < WATCHED_S:
                self._lobby.append(sock)
            else:
                entered += 1
                self._enter(sock)
        if gone:
            self._left(gone)
        if gone or self._lobby:
            rest_s = rest_s or REST_S
        if rest_s:
            self._rest(rest_s)

    def _watch(self, place: str, now: float) -> None:
        self._watched.pop(place, None)
        self._watched[place] = now
        self._syns.note(place, now)
        if len(self._watched) > MOST_WATCHED:
            del self._watched[next(iter(self._watched))]

    def _left_meanwhile(self, sock: socket.socket) -> bool:
        """走了的当场关掉。"""
        left = _closed(sock)
        if left:
            sock.close()
        return left

    def _next(self) -> tuple[socket.socket, str]:
        """一条，与它从哪里来；``socket.accept`` 一大半的工夫在重做几个枚举值。"""
        descriptor, address = self._sock._accept()  # type: ignore[attr-defined]  # 存根里没有它
        place = rate_key(address[0]) if isinstance(address, tuple) else ""
        return socket.socket(*self._kind, descriptor), place

    def _enter(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        entering = self._loop.create_task(
            self._loop.connect_accepted_socket(self._arrived, sock, ssl=self._context)
        )
        self._entering.add(entering)
        entering.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[Any]) -> None:
        self._entering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.bind(error=str(error)).debug("arrival_failed")


def has_left(transport: Line | None) -> bool:
    """对方已经关了它那一边，或我们已经关了；不是 TCP、不是 Linux 的不知道。"""
    if transport is None:
        return False
    return transport.is_closing() or _closed(transport.get_extra_info("socket"))


def _closed(sock: Any) -> bool:
    if sock is None or _TCP_INFO is None:
        return False
    try:
        state: bytes = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)
    except OSError:  # 不是 TCP
        return False
    return state[0] in _GONE
