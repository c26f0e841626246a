"""CON-1：一台设备停止读取。别人的延迟、它何时被关、服务器为它花多少内存、重连后缺不缺。

两种情形里它收到的一样多，只差读不读：比较的是“读得慢”，不是“多一个收件人”。
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ..accounts import Accounts, make_accounts
from ..failure import BenchError
from ..post_connection import PostConnection, accepted, post_head
from ..progress import Steps
from ..server_under_test import ServerUnderTest
from ..target import Target
from .figures import Disturbance, Mode, Phase, SlowOutcome
from .neighbours import Neighbours, neighbours
from .plan import DisturbancePlan
from .server_watch import ServerWatch, watching

_RECEIVE_BUFFER: Final = 64 * 1024  # 小：很快就轮到服务器那一侧积压
_OPEN_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


class _Frame(msgspec.Struct):
    type: str
    message_id: str = ""
    messages: list[_Frame] = []


_decoder: Final = msgspec.json.Decoder(_Frame)


class SlowDevice:
    """``got``：收到过的 message_id。"""

    def __init__(self, websocket: ClientConnection) -> None:
        self.got: set[str] = set()
        self._websocket = websocket
        self._reading = asyncio.create_task(self._read())

    async def stop_reading(self) -> None:
        """此后一个字节也不读（库里的缓冲满了，TCP 窗口随之关上）。"""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._websocket.transport.pause_reading()

    async def wait_for(self, message_ids: set[str], timeout_s: float) -> int:
        """等到都收到，返回期限到时还缺几条。"""
        deadline = time.monotonic() + timeout_s
        while (missing := len(message_ids - self.got)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return missing

    async def close(self) -> None:
        self._reading.cancel()
        self._websocket.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._websocket:
                frame = _decoder.decode(text)
                ids = [one.message_id for one in (frame, *frame.messages) if one.message_id]
                if ids and frame.type in ("new_message", "batch"):
                    self.got.update(ids)
                    ack = msgspec.json.encode({"type": "ack", "message_ids": ids})
                    await self._websocket.send(ack.decode())


@contextlib.asynccontextmanager
async def slow_device(target: Target, user_id: int) -> AsyncIterator[SlowDevice]:
    """连上、在读；离开时断开。"""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
    websocket = await connect(
        target.messages_url(user_id),
        sock=sock,
        additional_headers={"Authorization": f"Bearer {target.token(user_id)}"},
        open_timeout=_OPEN_TIMEOUT_S,
        ping_interval=None,
        max_size=None,
        max_queue=1,
        compression=None,
    )
    device = SlowDevice(websocket)
    try:
        yield device
    finally:
        await device.close()


_RETURN_TIMEOUT_S: Final = 60.0
_ORDER: Final[tuple[Mode, ...]] = ("without", "with", "with", "without")


def slow_consumer(
    edge: str, server: ServerUnderTest, plan: DisturbancePlan, steps: Steps
) -> Disturbance:
    """:raises BenchError: 有一条消息没有到，或那一台没有被关"""
    accounts = make_accounts(server.target, plan.neighbours + 1)
    return asyncio.run(_Run(edge, server, plan, accounts, steps).run())


class _Run:
    def __init__(
        self,
        edge: str,
        server: ServerUnderTest,
        plan: DisturbancePlan,
        accounts: Accounts,
        steps: Steps,
    ) -> None:
        self._edge = edge
        self._server = server
        self._plan = plan
        self._steps = steps
        self._slow_id, *others = accounts.recipient_ids
        self._accounts = Accounts(accounts.sender_id, others)
        self._phases: list[Phase] = []
        self._outcomes: list[SlowOutcome] = []

    async def run(self) -> Disturbance:
        target, plan = self._server.target, self._plan
        async with neighbours(target, self._accounts, plan.rate_per_s) as people:
            await people.measure(plan.warm_up_s)
            for number, mode in enumerate(_ORDER * plan.rounds):
                with self._steps.step(f"{self._edge} {number + 1}: {mode} a slow consumer"):
                    await self._phase(people, mode)
        return Disturbance(edge=self._edge, phases=self._phases, slow=self._outcomes)

    async def _phase(self, people: Neighbours, mode: Mode) -> None:
        sent: set[str] = set()
        async with (
            watching(self._server) as watch,
            slow_device(self._server.target, self._slow_id) as device,
        ):
            sending = asyncio.create_task(self._keep_sending(sent))
            try:
                if mode == "with":
                    closing = asyncio.create_task(self._stop_reading(device, watch))
                    latencies = await people.measure(self._plan.phase_s)
                    closed_after_s, growth = await closing
                else:
                    latencies = await people.measure(self._plan.phase_s)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            self._phases.append(Phase(mode=mode, latencies=latencies))
            if mode == "without":
                _require_all(await device.wait_for(sent, _RETURN_TIMEOUT_S), sent)
                return
        missing = await self._returned(sent - device.got)
        self._outcomes.append(
            SlowOutcome(
                closed_after_s=closed_after_s, growth_bytes=growth, sent=len(sent), missing=missing
            )
        )
        _require_all(missing, sent)

    async def _returned(self, message_ids: set[str]) -> int:
        async with slow_device(self._server.target, self._slow_id) as device:
            return await device.wait_for(message_ids, _RETURN_TIMEOUT_S)

    async def _stop_reading(self, device: SlowDevice, watch: ServerWatch) -> tuple[float, int]:
        """停止读取，直到服务器关闭它：用时（秒）与期间内存的增长（最高点）。"""
        await asyncio.sleep(1)
        await device.stop_reading()
        return await watch.one_more_close()

    async def _keep_sending(self, sent: set[str]) -> None:
        """不停地给它发大消息；记下每一条。"""
        target, plan = self._server.target, self._plan
        token = target.token(self._accounts.sender_id)
        head = post_head(target.host, target.port, "/api/v1/messages", token)
        connection = await PostConnection.open(target.host, target.port)
        try:
            for number in count():
                body = {
                    "recipient_ids": [self._slow_id],
                    "title": str(number),
                    "content": "x" * plan.slow_content_bytes,
                }
                answer = await connection.post(head, msgspec.json.encode(body))
                sent.add(accepted(*answer).message_id)
                await asyncio.sleep(1 / plan.slow_messages_per_s)
        finally:
            await connection.close()


def _require_all(missing: int, sent: set[str]) -> None:
    if missing:
        raise BenchError(f"{missing} of {len(sent)} messages never came")
