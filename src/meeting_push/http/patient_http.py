"""uvicorn 的 HTTP 协议，但每一样都有限：请求头、拖尾、分块、慢的、不读的、一个地址的连接数。

uvicorn 自己没有这些上限。越过的得到一个 HTTP 回答，然后断开；还在说的听完一小会儿再断，否则内核的
RST 会赶在回答前面。升级成 WebSocket 的连接也从这里开始。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from . import refusals, upgrade_request
from .doorway import (
    MAX_PIPELINED,
    MAX_QUIET_BYTES,
    MIN_ANSWER_PROGRESS,
    MIN_BODY_PROGRESS,
    PROBES,
    CourteousTransport,
    Doorway,
    Patience,
    UnreadAnswers,
)
from .listener import LINE, UNWANTED
from .request_ids import given_in
from .request_phase import Phase
from .upgrade_request import MAX_HEAD_BYTES, MAX_HEADERS, as_text, origin_form


class PatientHttp(HttpToolsProtocol):
    """请求头的期限从连上、或从下一个请求的第一个字节算起；请求体的从请求头说完算起。"""

    def __init__(
        self,
        patience: Patience,
        doorway: Doorway,
        unread: UnreadAnswers,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._patience = patience
        self._doorway = doorway
        self._unread = unread
        self._line: asyncio.Transport
        self._courtesy: CourteousTransport
        self._phase = Phase.HEAD
        #: 离开时撤销的登记；第一个不是升级的请求才登记。
        self._leave_address: Callable[[], None] | None = None
        self._head_bytes = self._header_count = 0
        self._body_bytes = self._framing_bytes = self._quiet_bytes = 0
        #: ``_last``：这一个答完就关，不读后面的了；``_held``：还没有说的拒绝。
        self._crowded = self._progress = self._spoke = self._last = False
        self._held: bytes | None = None
        self._keep_alive = self._parting = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        #: 这一次读完了还没有说完，才等：多数请求一次就到齐，不必造计时器。
        self._then_wait: Callable[[], None] | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # 同 uvicorn
        self._line = transport
        self._courtesy = CourteousTransport(transport, self._part, self._doorway.may_discard)
        super().connection_made(cast(asyncio.Transport, self._courtesy))
        self._crowded = self._doorway.crowded(transport)
        if self._crowded and self._doorway.walled(transport):
            transport.abort()
            return
        self._doorway.arrive(self, self.client[0] if self.client else "", self.loop)
        self._wait_head(self._patience.crowded_head_s if self._crowded else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self._unread.forget(self)
        self._stop_stall()
        super().connection_lost(exc)
        # 它与排着的都指着我们；还在办的自己知道已经没有人听
        self.cycle = None  # type: ignore[assignment]  # uvicorn 也这样写
        self.pipeline.clear()
        if self.scope is not None:
            self.scope.pop(UNWANTED, None)  # type: ignore[typeddict-item]

    def handle_websocket_upgrade(self) -> None:
        self._let_go()  # 此后的期限归 WebSocket 一侧
        self.transport = self._line
        self.url = origin_form(self.url.decode("latin-1")).encode("latin-1")
        super().handle_websocket_upgrade()
        del self.parser, self.flow  # 它们回指我们：几千条连接的残骸会等着一次长的垃圾回收

    def _let_go(self) -> None:
        self._stop_waiting()
        self._doorway.busy(self)
        self._courtesy.release()
        leave, self._leave_address = self._leave_address, None
        if leave is not None:
            leave()

    def evict(self) -> None:
        self._courtesy.abort()

    def cut_off(self) -> None:
        self._doorway.turned_away["unread"] += 1
        self._courtesy.abort()

    def shutdown(self) -> None:
        self._last = True
        if self._held is not None:
            self._say(self._held)
        else:
            super().shutdown()

    # ── 收到的字节 ────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._parting or self._last:
            self._courtesy.discard(len(data))
            return
        if not self._spoke and (self._doorway.left(self._line) or self._handed_over(data)):
            return
        self._spoke, self._progress = True, False
        phase, body_bytes = self._phase, self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # 不留在这里的名字里：它的回溯指着这一帧，一个环会把整条连接留到下一次长的回收
            self._on_stopped(error.__context__)
        except httptools.HttpParserUpgrade:
            self._on_upgrade()
        except httptools.HttpParserError:
            self._refuse(refusals.BAD_REQUEST)
        else:
            in_body = phase is self._phase is Phase.BODY
            self._measure(len(data), len(data) - self._body_bytes + body_bytes if in_body else 0)
        if self._then_wait is not None:
            self._then_wait()

    def _handed_over(self, data: bytes) -> bool:
        """收齐了的、合规矩的用户连接、事件流：不经解析器，读一遍就交出去；别的照走，那里说得出哪里不对。"""
        edge: Any = self.ws_protocol_class
        start = getattr(edge, "direct", None)
        if start is None or self._crowded or not self.client or not data.startswith(start):
            return False
        request, rest = upgrade_request.complete_request(data)
        if request is None:
            return False
        self._let_go()
        self.connections.discard(self)
        front = edge(self.config, self.server_state, self.app_state, self.loop)
        front.connection_made(self._line)
        self._line.set_protocol(front)
        del self.parser, self.flow  # 见 ``handle_websocket_upgrade``
        front.take(request, rest)
        return True

    def _on_stopped(self, cause: BaseException | None) -> None:
        if isinstance(cause, refusals.RefusedError):
            self._refuse(cause.refusal)
        elif not isinstance(cause, refusals.EnoughError):
            self._refuse(refusals.BAD_REQUEST)

    def _measure(self, size: int, framing: int) -> None:
        """不是内容的字节：解析器吃得下，我们就得数。"""
        self._quiet_bytes = 0 if self._progress else self._quiet_bytes + size
        self._framing_bytes += framing
        in_head = self._phase is Phase.HEAD
        if self._quiet_bytes > (MAX_HEAD_BYTES if in_head else MAX_QUIET_BYTES):
            self._refuse(refusals.HEAD_TOO_LARGE)
        elif self._framing_bytes > MAX_HEAD_BYTES + self._body_bytes:
            self._refuse(refusals.PADDED_BODY)

    def _on_upgrade(self) -> None:
        if not self._should_upgrade():
            return  # h2c 之类：照常回答（``_last`` 已记下），然后关
        refusal = upgrade_request.refusal_of(
            self.scope["method"], self.scope["http_version"], as_text(self.headers)
        )
        if refusal is not None:
            self._refuse(refusal)
        else:
            self.handle_websocket_upgrade()

    def _get_upgrade(self) -> bytes | None:
        """uvicorn 只看同名的最后一行。"""
        return b"websocket" if upgrade_request.asks_for_websocket(as_text(self.headers)) else None

    # ── 解析器的回调 ──────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self._last:
            raise refusals.EnoughError
        self._unset_keepalive_if_required()
        self._progress, self._phase = True, Phase.HEAD
        self._head_bytes = self._header_count = 0
        self._body_bytes = self._framing_bytes = 0
        self._stop_waiting(self._wait_head)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._take_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._progress, self._header_count = True, self._header_count + 1
        self._head_bytes += len(name) + len(value) + 4  # 同 ``_take_head``；一个请求好几行
        if self._head_bytes > MAX_HEAD_BYTES or self._header_count > MAX_HEADERS:
            raise refusals.RefusedError(refusals.HEAD_TOO_LARGE)
        if self._phase is Phase.HEAD:  # 拖尾没有人看
            super().on_header(name, value)

    def _take_head(self, size: int) -> None:
        self._progress = True
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise refusals.RefusedError(refusals.HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._progress = True
        if self._crowded and self.url.partition(b"?")[0] not in PROBES:
            raise refusals.RefusedError(refusals.CROWDED)
        if not self.parser.should_upgrade():
            self._enter()
        elif self._should_upgrade():
            super().on_headers_complete()
            return
        else:
            self._last = True
        self._doorway.busy(self)
        self._phase = Phase.BODY
        self.scope[LINE] = self._line  # type: ignore[typeddict-unknown-key]
        self.scope[UNWANTED] = self._drop_body  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        # 没收完就回答的（401、413），答完关：余下的请求体没有人要
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._last = self._last or self._crowded or len(self.pipeline) >= MAX_PIPELINED
        self._stop_waiting(self._wait_body)

    def _enter(self) -> None:
        if self._leave_address is None:
            self._leave_address = self._doorway.enter(self.client[0] if self.client else "")
            if self._leave_address is None:
                raise refusals.RefusedError(refusals.TOO_MANY_HERE)

    def on_body(self, body: bytes) -> None:
        self._progress = True
        self._body_bytes += len(body)
        super().on_body(body)

    def _drop_body(self) -> None:
        """没有读它就拒绝了：收下的（至多 256 KB，几百条就是几十 MB）放手；排着后面的就算了。"""
        if (cycle := self.cycle) is not None and cycle.more_body and not self.pipeline:
            cycle.body.clear()
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        self._progress, self._phase = True, Phase.DONE
        if self.cycle is not None:
            self.cycle.keep_alive = self._keep_alive and not self._last
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        answered = self.cycle is not None and self.cycle.response_complete  # None：已经断开
        if answered and not self._parting and self._phase is Phase.DONE:
            self._doorway.wait(self)

    # ── 期限 ──────────────────────────────────────────────────────────────

    def _wait_head(self, seconds: float = 0) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds or self._patience.head_s, self._on_slow_head)

    def _wait_body(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.time() + self._patience.body_s
        self._timer = self.loop.call_later(self._patience.body_idle_s / 2, self._on_slow_body, 0)

    def _stop_waiting(self, then: Callable[[], None] | None = None) -> None:
        self._then_wait = then
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_slow_head(self) -> None:
        if self.flow.read_paused:  # 是我们自己没有读（上一个请求还没答完）
            self._wait_head()
        elif self._spoke:
            self._refuse(refusals.TOO_SLOW)
        else:
            self._courtesy.abort()

    def _on_slow_body(self, before: int) -> None:
        paused = self.flow.read_paused
        if paused:
            self._deadline += self._patience.body_idle_s / 2
        moved = paused or self._body_bytes - before >= MIN_BODY_PROGRESS
        if moved and self.loop.time() < self._deadline:
            self._timer = self.loop.call_later(
                self._patience.body_idle_s / 2, self._on_slow_body, self._body_bytes
            )
        else:
            self._refuse(refusals.TOO_SLOW)

    # ── 没有人读的应答 ────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        self._stop_stall()
        self._unread.forget(self)
        super().resume_writing()

    def _watch_answer(self) -> None:
        size = self._line.get_write_buffer_size()
        self._stop_stall()
        self._stall = self.loop.call_later(
            self._patience.answer_stall_s, self._on_stalled_answer, size
        )
        self._unread.note(self, self.client[0] if self.client else "", size)

    def _on_stalled_answer(self, before: int) -> None:
        if before - self._line.get_write_buffer_size() >= MIN_ANSWER_PROGRESS:
            self._watch_answer()
        else:
            self.cut_off()

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # ── 拒绝与告别 ────────────────────────────────────────────────────────

    def _refuse(self, refusal: refusals.Refusal) -> None:
        self._doorway.turned_away[refusal.code] += 1
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._phase is not Phase.BODY or cycle.response_started or self.pipeline:
                self._courtesy.abort()  # 前面的还没有答完，插不进话
                return
            cycle.disconnected = True
            cycle.message_event.set()
        delay_s = 0.0 if refusal in refusals.AT_ONCE else self._refusal_delay_s()
        lines = self.headers or ()
        answer = refusal.answer(given_in(lines), self._doorway.cors.headers(lines))
        if delay_s:
            self._hold(answer, delay_s)
        else:
            self._say(answer)

    def _refusal_delay_s(self) -> float:
        lines = self.headers or ()  # 请求行就不对的：还没有头
        forwarded = [value.decode("latin-1") for name, value in lines if name == b"x-forwarded-for"]
        [address, *_] = self.client or [""]
        return self._doorway.refusal_delay_s(address, forwarded, self.loop.time())

    def _hold(self, answer: bytes, delay_s: float) -> None:
        """一再撞门的：不读它，晚些再说；描述符缺了它先让位。"""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        if self._phase is Phase.HEAD and self.headers:
            self.headers.clear()  # 至多 64 KB，没有人要了
        self._last, self._held = True, answer
        self.flow.pause_reading()
        self._doorway.wait(self)
        self._timer = self.loop.call_later(delay_s, self._say, answer)

    def _say(self, answer: bytes) -> None:
        self._held = None
        self._line.write(answer)
        self._part()

    def _part(self) -> None:
        if self._parting or self._line.is_closing():
            return
        self._parting = True
        self._drop_body()
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self._doorway.wait(self)
        if self._courtesy.leave(heard=self._phase is Phase.DONE and not self._last):
            self.flow.resume_reading()


def patient_http(patience: Patience, doorway: Doorway) -> type[asyncio.Protocol]:
    """给 uvicorn 的 ``Config(http=…)``；类型写的是类，uvicorn 只是调用它。"""
    factory: Callable[..., PatientHttp] = partial(PatientHttp, patience, doorway, UnreadAnswers())
    return cast(type[asyncio.Protocol], factory)
