"""老实人的一段日子：连上、发、收、确认、登录、开会、读收件箱；各用了多久，哪些没有做成。

在自己的进程里；都是开环：时刻到了就做，不等上一件；延迟从预定的时刻算起。
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import cycle
from typing import Any, Final

import msgspec
from picows import WSError, WSTransport, ws_connect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from meeting_push.monitoring.latency import LatencyHistogram

from ..device import AckingDevice
from ..failure import BenchError
from ..load_process import Control, work
from ..progress import OnProgress
from .http_calls import HttpCalls
from .orders import Live, Lived, Person, SiegePlan, Town

_GRACE_S: Final = 10.0
_POLL_S: Final = 0.02
_OPEN_TIMEOUT_S: Final = 30.0
_SEATS: Final = 2
_REFUSALS: Final = (
    *(BenchError, OSError, TimeoutError, WSError),
    *(ConnectionClosed, InvalidHandshake),
)
_LOGGER: Final = logging.LoggerAdapter(logging.getLogger("bench.siege"), {})


class Life:
    def __init__(self, town: Town, plan: SiegePlan, address: str, forwarded: str | None) -> None:
        self._town = town
        self._plan = plan
        self._address = address
        self._headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        self._http = HttpCalls(town.target, address, self._headers)
        self._latencies: defaultdict[str, LatencyHistogram] = defaultdict(LatencyHistogram)
        self._refused: Counter[str] = Counter()
        #: 发出去、还没有到的：（什么事，预定的时刻）。到了第二台设备的不再算。
        self._awaited: set[tuple[str, int]] = set()
        self._devices: list[tuple[WSTransport, AckingDevice]] = []
        self._people = cycle(town.honest)

    # AckingDevice 的 Notes：一条发给老实人的消息到了
    def note(self, sent_at_ns: int, now_ns: int) -> None:
        self._arrived("send", sent_at_ns, now_ns)

    def _arrived(self, what: str, at_ns: int, now_ns: int) -> None:
        if (what, at_ns) in self._awaited:  # 上一段里迟到的不算在这一段
            self._awaited.remove((what, at_ns))
            self._latencies[what].record(max(0, now_ns - at_ns) // 1000)

    async def live(self, seconds: float) -> Lived:
        plan = self._plan
        doing = [
            (plan.sends_per_s, self._send),
            (plan.connects_per_s, self._connect),
            (plan.reads_per_s, self._read),
        ]
        if self._town.honest[0].password:
            doing.append((plan.logins_per_s, self._log_in))
        async with contextlib.AsyncExitStack() as stack:
            await self._at_home(stack)
            meeting = await self._meet(stack)
            if meeting is not None:
                doing.append((plan.segments_per_s, partial(self._speak, meeting)))
            await asyncio.gather(*(self._at_pace(rate, seconds, do) for rate, do in doing))
            await self._all_arrived()
            lost = sum(device.lost for _, device in self._devices)
            self._refused.update({"device closed": lost} if lost else {})
        await self._http.close()
        return Lived(latencies=dict(self._latencies), refused=dict(self._refused))

    async def _at_pace(
        self, rate_per_s: float, seconds: float, do: Callable[[int], Awaitable[None]]
    ) -> None:
        start = time.monotonic_ns()
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, int(rate_per_s * seconds))):
                at_ns = start + int(number * 1e9 / rate_per_s)
                await asyncio.sleep(max(0, (at_ns - time.monotonic_ns()) / 1e9))
                group.create_task(self._tried(do, at_ns))

    async def _tried(self, do: Callable[[int], Awaitable[None]], at_ns: int) -> None:
        try:
            await do(at_ns)
        except _REFUSALS as error:
            self._refuse(getattr(do, "__name__", "_speak").removeprefix("_"), error)

    def _refuse(self, what: str, error: BaseException) -> None:
        self._refused[f"{what}: {type(error).__name__} {error}"[:120]] += 1

    # ── 做的事 ──────────────────────────────────────────────────────────────

    async def _send(self, at_ns: int) -> None:
        sender, recipient = next(self._people), next(self._people)
        body = {"recipient_ids": [recipient.user_id], "title": str(at_ns), "content": "x" * 100}
        self._awaited.add(("send", at_ns))
        try:
            await self._http.post("/api/v1/messages", body, self._town.target.token(sender.user_id))
        except BaseException:
            self._awaited.discard(("send", at_ns))
            raise

    async def _log_in(self, at_ns: int) -> None:
        person = next(self._people)
        await self._http.post(
            "/api/v1/auth/login", {"username": person.name, "password": person.password}, None
        )
        self._done("login", at_ns)

    async def _read(self, at_ns: int) -> None:
        # 第一位是 A3 的受害者：他的收件箱每次都要读得出
        person = self._town.honest[0] if at_ns % 2 else next(self._people)
        await self._http.get("/api/v1/messages", self._town.target.token(person.user_id))
        self._done("inbox", at_ns)

    async def _connect(self, at_ns: int) -> None:
        person = next(self._people)
        transport, device = await self._open(person)
        self._done("connect", at_ns)
        device.closing = True
        transport.disconnect()

    async def _speak(self, speaker: ClientConnection, at_ns: int) -> None:
        segment = {"type": "segment", "text": str(at_ns), "start_ms": 0, "end_ms": 1}
        self._awaited.add(("meet", at_ns))
        await speaker.send(msgspec.json.encode(segment).decode())

    async def _listen(self, listener: ClientConnection) -> None:
        async for text in listener:
            frame = msgspec.json.decode(text)
            if frame["type"] == "segment" and frame["text"].isdecimal():
                self._arrived("meet", int(frame["text"]), time.monotonic_ns())
        self._refused["the meeting was closed"] += 1

    def _done(self, what: str, at_ns: int) -> None:
        self._latencies[what].record(max(0, time.monotonic_ns() - at_ns) // 1000)

    # ── 到场 ────────────────────────────────────────────────────────────────

    async def _at_home(self, stack: contextlib.AsyncExitStack) -> None:
        """每人一台设备，一直连着。"""
        stack.callback(self._hang_up)
        for person in self._town.honest:
            try:
                self._devices.append(await self._open(person))
            except _REFUSALS as error:
                self._refuse("at home", error)

    def _hang_up(self) -> None:
        for transport, device in self._devices:
            device.closing = True
            transport.disconnect()

    async def _open(self, person: Person) -> tuple[WSTransport, AckingDevice]:
        target = self._town.target
        welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        device = AckingDevice(welcomed, self)
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            transport, _ = await ws_connect(
                lambda: device,
                target.messages_url(person.user_id),
                extra_headers=self._signed(person),
                logger_name=_LOGGER,
                local_addr=(self._address, 0),
            )
            await welcomed
        return transport, device

    async def _meet(self, stack: contextlib.AsyncExitStack) -> ClientConnection | None:
        """返回说话的人的那一条；另一条在听。进不去是一次拒绝。"""
        try:
            speaker, listener = [
                await stack.enter_async_context(self._seat(person))
                for person in self._town.honest[:_SEATS]
            ]
            for one in (speaker, listener):
                await _caught_up(one)
        except _REFUSALS as error:
            self._refuse("meet", error)
            return None
        listening = asyncio.create_task(self._listen(listener))
        stack.callback(listening.cancel)
        return speaker

    def _seat(self, person: Person) -> connect:
        target = self._town.target
        return connect(
            f"ws://{target.host}:{target.port}/ws/meeting/{self._town.meeting_id}",
            additional_headers=self._signed(person),
            local_addr=(self._address, 0),
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=1,
            compression=None,
            ping_interval=None,
            max_queue=None,
        )

    def _signed(self, person: Person) -> Mapping[str, str]:
        token = self._town.target.token(person.user_id)
        return {"Authorization": f"Bearer {token}", **self._headers}

    async def _all_arrived(self) -> None:
        deadline = time.monotonic() + _GRACE_S
        while self._awaited:
            if time.monotonic() > deadline:
                for what, count in Counter(what for what, _ in self._awaited).items():
                    self._refused[f"{what}: did not arrive"] += count
                return
            await asyncio.sleep(_POLL_S)


async def _caught_up(seat: ClientConnection) -> None:
    """进了会议，以前的也补发完了；此后说的才作为 ``segment`` 到来。"""
    async for text in seat:
        frame = msgspec.json.decode(text)
        if frame["type"] == "history" and frame["complete"]:
            return
    raise BenchError("the meeting closed at the door")


def main(control: Control, _counts: Any) -> None:
    """spawn 的入口；没有共享的计数。"""
    work(control, Live, _obey)


async def _obey(order: Live, _on_progress: OnProgress) -> Lived:
    life = Life(order.town, order.plan, order.address, order.forwarded)
    return await life.live(order.seconds)
