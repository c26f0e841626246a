"""一套在演练的系统，从外面看：以一个管理员的身份问它、给它发、作为他的设备连着。

自己起的（``throwaway.py``）与别人给的都是它。只有一个人：他发给自己，他不在就是没有人在。
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from uuid import uuid4

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ..client.endpoint import RestOptions, parse_endpoint, user_id_in
from ..client.errors import ApiError, ServerUnreachableError, TokenUnreadableError
from ..client.rest_call import HttpCaller, HttpRequest
from ..clock import now_ms
from ..protocol.frames import BEARER_SUBPROTOCOL_PREFIX, SUBPROTOCOL
from ..supervision import periodically

#: 问一次等至多这么久：它可能正坏着。
ANSWER_S: Final = 5.0
OPEN_S: Final = 15.0
#: 多久一次心跳；比服务器的时限短得多。
BEAT_S: Final = 20.0
#: 一帧里的 ack 至多这么多个。
_ACKS: Final = 100


class SeenAlert(Struct, frozen=True):
    """``GET /alerts`` 里的一条，与通知里的一条：只读要看的。"""

    alert_id: str
    rule: str
    state: str
    labels: dict[str, str]
    started_at: int

    def is_of(self, rule: str, labels: Mapping[str, str]) -> bool:
        return self.rule == rule and labels.items() <= self.labels.items()


class RuleNow(Struct, frozen=True):
    """此刻生效的一条规则。"""

    rule: str
    enabled: bool
    threshold: float
    window_s: float
    for_s: float


class _Alerts(Struct, frozen=True):
    items: list[SeenAlert]


class _Rules(Struct, frozen=True):
    items: list[RuleNow]


class _Happened(Struct, frozen=True):
    kind: str
    state: str | None = None
    ok: bool | None = None


class _TimeLine(Struct, frozen=True):
    timeline: list[_Happened]


class _Frame(Struct, frozen=True):
    """``new_message``，或 ``batch`` 与它的几条。"""

    type: str = ""
    message_id: str = ""
    messages: list[_Frame] = []


class System:
    """``token`` 是管理员的；设备也以他的名义连着。

    :raises ConfigurationError: ``url`` 不是地址
    """

    def __init__(self, url: str, token: str, redis_url: str | None = None) -> None:
        self.url = url
        self.redis_url = redis_url
        self.token = token
        self._endpoint = parse_endpoint(url)
        self._http = HttpCaller(self._endpoint, RestOptions(timeout_s=ANSWER_S))

    @property
    def user_id(self) -> int:
        """:raises TokenUnreadableError: 令牌里没有整数的 ``sub``"""
        person = user_id_in(self.token, "sub")
        if not isinstance(person, int):
            raise TokenUnreadableError("drills are for integer ids")
        return person

    # ── REST ────────────────────────────────────────────────────────────────

    async def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None
    ) -> tuple[int, bytes]:
        """（状态码，正文）；不论是几。

        :raises ServerUnreachableError: 没有回答
        """
        headers = {"Authorization": f"Bearer {token or self.token}"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body)
        answer = await self._http.call(HttpRequest(method, path, headers, content))
        return answer.status, answer.body

    async def ask(self, path: str) -> bytes:
        """:raises ApiError: 它说不行；:raises ServerUnreachableError: 没有回答"""
        status, body = await self.call("GET", f"/api/v1{path}")
        if status != HTTPStatus.OK:
            said = f"GET {path}: HTTP {status}"
            raise ApiError(status, "unexpected_answer", said, temporary=False)
        return body

    async def is_ready(self) -> bool:
        with contextlib.suppress(ServerUnreachableError):
            return (await self.call("GET", "/readyz"))[0] == HTTPStatus.OK
        return False

    async def firing(self, rule: str, labels: Mapping[str, str]) -> list[SeenAlert] | None:
        """这条规则在触发的；此刻问不到则 None。"""
        try:
            body = await self.ask("/alerts?state=firing&limit=200")
        except (ApiError, ServerUnreachableError):
            return None
        found = msgspec.json.decode(body, type=_Alerts).items
        return [one for one in found if one.is_of(rule, labels)]

    async def rule(self, name: str) -> RuleNow:
        body = await self.ask("/alerts/rules")
        return next(x for x in msgspec.json.decode(body, type=_Rules).items if x.rule == name)

    async def told(self, alert_id: str, state: str) -> bool:
        """这条告警的时间线说它的触发（恢复）告诉过人了。"""
        try:
            body = await self.ask(f"/alerts/{alert_id}")
        except (ApiError, ServerUnreachableError):
            return False
        line = msgspec.json.decode(body, type=_TimeLine).timeline
        return any(x.kind == "notice" and x.state == state and x.ok is not False for x in line)

    async def send(self, count: int = 1, content: str = "", **fields: object) -> None:
        """``count`` 条给自己的，一次请求；不行的不再试：被拒绝也是演练的一部分。"""
        one = {"recipient_ids": [self.user_id], "title": "drill", "content": content, **fields}
        await self.call("POST", "/api/v1/messages/batch", {"messages": [one] * count})

    async def gauge(self, name: str, **labels: str) -> float:
        """``/metrics`` 里的一个数，各进程里最大的；没有则 0。"""
        [value] = await self.gauges(name, **labels)
        return value

    async def gauges(self, *names: str, **labels: str) -> list[float]:
        """几个数，出自同一次 ``/metrics``：各读各的，后读的可能已经走在前面。"""
        _, body = await self.call("GET", "/metrics")
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return [_greatest(body.decode(), name, wanted) for name in names]

    # ── 设备 ────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def device(self, *, reads: bool = True) -> AsyncIterator[ClientConnection]:
        """连上一台设备；``reads=False``：欢迎之后什么也不读。离开时好好地关上。"""
        socket = await self._open(reads)
        beating = asyncio.create_task(
            periodically(partial(_beat, socket), partial(asyncio.sleep, BEAT_S))
        )
        try:
            yield socket
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await socket.close()

    async def vanish(self, times: int) -> None:
        """这么多台设备连上，然后不告而别（没有关闭帧）。"""
        for _ in range(times):
            socket = await self._open(reads=True)
            socket.transport.abort()
            await socket.wait_closed()

    async def _open(self, reads: bool) -> ClientConnection:
        url = self._endpoint.messages_url(self.user_id, f"drill-{uuid4().hex[:12]}", "drill", None)
        bearer = f"{BEARER_SUBPROTOCOL_PREFIX}{self.token}"
        socket = await connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(bearer)],
            proxy=None,
            open_timeout=OPEN_S,
            close_timeout=1,
            ping_interval=None,  # 心跳由我们发；不读的收不到 pong
            max_size=None,
            # 不读的设备：库的队列、套接字的缓冲都满了，就轮到服务器的发件箱
            max_queue=None if reads else 1,
        )
        async with asyncio.timeout(OPEN_S):
            await socket.recv()  # welcome
        return socket


async def _beat(socket: ClientConnection) -> None:
    """慢的也活着：没有心跳，服务器一分钟就关。"""
    with contextlib.suppress(ConnectionClosed):
        await socket.send(_beat_frame())


def _beat_frame() -> str:
    frame = {"type": "heartbeat", "timestamp": now_ms()}
    return msgspec.json.encode(frame).decode()


async def acknowledge(socket: ClientConnection, wanted: int, within_s: float) -> int:
    """读，到了就确认，到第 ``wanted`` 条或 ``within_s`` 秒；返回确认了几条。"""
    done = 0
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        async with asyncio.timeout(within_s):
            async for text in socket:
                ids = _message_ids(text)
                for start in range(0, len(ids), _ACKS):
                    await socket.send(_ack(ids[start : start + _ACKS]))
                done += len(ids)
                if done >= wanted:
                    break
    return done


def _message_ids(text: str | bytes) -> list[str]:
    frame = msgspec.json.decode(text, type=_Frame)
    each = frame.messages if frame.type == "batch" else [frame]
    return [one.message_id for one in each if one.type in ("new_message", "") and one.message_id]


def _ack(message_ids: list[str]) -> str:
    frame: dict[str, Any] = {"type": "ack", "message_ids": message_ids}
    return msgspec.json.encode(frame).decode()


def _greatest(metrics: str, name: str, wanted: Sequence[str]) -> float:
    lines = re.findall(rf"^meeting_push_{name}(\{{.*\}})? (\S+)$", metrics, re.MULTILINE)
    return max((float(value) for said, value in lines if all(x in said for x in wanted)), default=0)
