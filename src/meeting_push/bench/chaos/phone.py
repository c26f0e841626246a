"""一台来来去去的设备：用 ``websockets``（不是我们自己的客户端），照契约说话。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import zlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlencode

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from ...protocol.codes import may_reconnect
from ..failure import BenchError
from .history import (
    Acked,
    Closed,
    Dialled,
    Gapped,
    HistoryWriter,
    Opened,
    Push,
    Received,
    Resynced,
    now_ms,
)
from .ledger import Ledger
from .position import Position
from .schedule import Stay
from .town import HEARTBEAT_INTERVAL_S, Town

OPEN_WAIT_S: Final = 8.0
_RETRY_S: Final = 0.3
_TICK_S: Final = 0.1
#: 一次 ack 至多这么多个 id（契约是 1,000）。
_MAX_IDS: Final = 500
_STALE_EPOCH: Final = "0" * 16

_numbers = itertools.count(1)


class _Sent(msgspec.Struct):
    hold: bool = False


class _Message(msgspec.Struct, tag="new_message", tag_field="type"):
    message_id: str
    title: str
    content: str
    seq: int = 0
    attempt: int = 0
    priority: int = 0
    data: _Sent | None = None

    def push(self) -> Push:
        crc = zlib.crc32(self.content.encode())
        return Push(self.seq, self.message_id, self.title, self.attempt, self.priority, crc)

    @property
    def held(self) -> bool:
        return self.data is not None and self.data.hold


class _Batch(msgspec.Struct, tag="batch", tag_field="type"):
    messages: list[_Message]


class _Welcome(msgspec.Struct, tag="welcome", tag_field="type"):
    epoch: str
    seq: int
    resumed: bool
    pending: int


class _Gap(msgspec.Struct, tag="gap", tag_field="type"):
    from_seq: int
    to_seq: int
    reason: str


class _Resync(msgspec.Struct, tag="resync", tag_field="type"):
    reason: str
    epoch: str
    seq: int


class _HeartbeatAck(msgspec.Struct, tag="heartbeat_ack", tag_field="type"):
    seq: int


class _Notice(msgspec.Struct, tag="notice", tag_field="type"):
    code: str


class _Error(msgspec.Struct, tag="error", tag_field="type"):
    code: str
    temporary: bool


_Frame = _Message | _Batch | _Welcome | _Gap | _Resync | _HeartbeatAck | _Notice | _Error
_decoder: Final[msgspec.json.Decoder[_Frame]] = msgspec.json.Decoder(_Frame)


class Phone:
    """``run`` 一次接一次地在线，直到被取消；``drain`` 再连一次，什么都确认。"""

    def __init__(
        self, town: Town, ledger: Ledger, history: HistoryWriter, user_id: int, device: str
    ) -> None:
        self._town = town
        self._ledger = ledger
        self._history = history
        self._user_id = user_id
        self._device = device
        self._position = Position()
        #: 收到了而留到以后的连接上再确认的。
        self._late: list[str] = []

    async def run(self, stays: tuple[Stay, ...]) -> None:
        """:raises BenchError: 服务器以“不要再来”的码关闭：设备没有做错事"""
        for stay in stays:
            await asyncio.sleep(stay.away_s)
            await self._stay(stay)

    async def drain(self) -> None:
        """一直在线，直到被取消；断了就再连。"""
        for gateway in itertools.count():
            await self._stay(_patient_stay(gateway))

    async def _stay(self, stay: Stay) -> None:
        """连不上就换下一个网关，直到连上一次，或这段时间过完。"""
        ends_at = time.monotonic() + stay.online_s
        for gateway in itertools.count(stay.gateway):
            visit = _Visit(self, stay, gateway % len(self._town.gateways))
            if await visit.run(ends_at) or time.monotonic() > ends_at:
                return
            await asyncio.sleep(_RETRY_S)


class _Visit:
    """一条连接的一生。"""

    def __init__(self, phone: Phone, stay: Stay, gateway: int) -> None:
        self._phone = phone
        self._stay = stay
        self._gateway = gateway
        self._number = next(_numbers)
        self._history = phone._history
        self._position = phone._position
        #: 这条连接上收到、还没有确认的：message_id → seq。
        self._unacked: dict[str, int] = {}
        self._left = False

    async def run(self, ends_at: float) -> bool:
        """True：连上过。"""
        claim = self._claim()
        self._dialled(claim)
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                socket = await self._connect(claim)
        except (OSError, TimeoutError, WebSocketException):
            return False
        opened = False
        try:
            opened = await self._welcome(socket)
            if opened:
                await self._online(socket, ends_at)
        except ConnectionClosed as error:
            self._lost(error)
        finally:
            await self._leave(socket)
        return opened

    def _claim(self) -> tuple[str, int] | None:
        """续传时说自己在哪里。"""
        position = self._position
        if not (self._stay.resume and position.epoch):
            return None
        return _STALE_EPOCH if self._stay.stale else position.epoch, position.floor

    def _dialled(self, claim: tuple[str, int] | None) -> None:
        epoch, last_seq = claim or ("", None)
        self._history.write(
            Dialled(
                at=now_ms(),
                connection=self._number,
                user_id=self._phone._user_id,
                device=self._phone._device,
                gateway=self._gateway,
                epoch=epoch,
                last_seq=last_seq,
            )
        )

    async def _connect(self, claim: tuple[str, int] | None) -> ClientConnection:
        phone = self._phone
        target = phone._town.gateways[self._gateway].target
        query: dict[str, str | int] = {"device_id": phone._device}
        if claim is not None:
            query |= {"epoch": claim[0], "last_seq": claim[1]}
        return await connect(
            f"{target.messages_url(phone._user_id)}?{urlencode(query)}",
            additional_headers={"Authorization": f"Bearer {target.token(phone._user_id)}"},
            proxy=None,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=None,
        )

    async def _welcome(self, socket: ClientConnection) -> bool:
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                frame = _decode(await socket.recv())
        except TimeoutError:
            return False
        if not isinstance(frame, _Welcome):
            raise BenchError(f"the first frame was not welcome: {frame}")
        self._position.opened(frame.epoch, frame.seq, frame.pending)
        self._history.write(
            Opened(
                at=now_ms(),
                connection=self._number,
                epoch=frame.epoch,
                seq=frame.seq,
                resumed=frame.resumed,
                pending=frame.pending,
            )
        )
        return True

    async def _online(self, socket: ClientConnection, ends_at: float) -> None:
        """到点就走；收、心跳与攒着的确认各是一个任务。"""
        await self._ack_late(socket)
        speaking = asyncio.create_task(self._speak(socket))
        try:
            async with asyncio.timeout(max(0, ends_at - time.monotonic())):
                async for text in socket:
                    await self._take(socket, _decode(text))
        except TimeoutError:
            pass  # 这次在线到点了
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    # ── 收 ──────────────────────────────────────────────────────────────────

    async def _take(self, socket: ClientConnection, frame: _Frame) -> None:
        match frame:
            case _Message():
                await self._received(socket, [frame], live=True)
            case _Batch():
                await self._received(socket, frame.messages, live=False)
            case _Gap():
                self._history.write(
                    Gapped(
                        at=now_ms(),
                        connection=self._number,
                        from_seq=frame.from_seq,
                        to_seq=frame.to_seq,
                        reason=frame.reason,
                    )
                )
            case _Resync():
                self._position.restart(frame.epoch)
                self._history.write(
                    Resynced(
                        at=now_ms(),
                        connection=self._number,
                        reason=frame.reason,
                        epoch=frame.epoch,
                        seq=frame.seq,
                    )
                )
            case _Error(temporary=False):
                raise BenchError(f"the server refused a frame: {frame.code}")
            case _:
                pass

    async def _received(
        self, socket: ClientConnection, messages: list[_Message], *, live: bool
    ) -> None:
        pushes = tuple(message.push() for message in messages)
        self._history.write(
            Received(at=now_ms(), connection=self._number, live=live, pushes=pushes)
        )
        for message in messages:
            self._position.received(message.seq)
            self._remember(message)
            if message.held:
                self._phone._ledger.held.add(message.message_id)
            else:
                self._unacked[message.message_id] = message.seq
        match self._stay.policy:
            case "each":
                await self._ack_ids(socket)
            case "upto":
                await self._ack_upto(socket)
            case "late":
                self._phone._late += self._unacked
                self._unacked.clear()
            case "batched" | "never":
                pass

    def _remember(self, message: _Message) -> None:
        ledger = self._phone._ledger
        draft = ledger.draft(message.title)
        if draft is not None:
            ledger.arrived.append((message.message_id, frozenset(ledger.recipients(draft))))

    # ── 发 ──────────────────────────────────────────────────────────────────

    async def _speak(self, socket: ClientConnection) -> None:
        """心跳；攒着的确认。断开由收的一方去发现。"""
        next_beat = 0.0
        with contextlib.suppress(ConnectionClosed):
            while True:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + HEARTBEAT_INTERVAL_S
                    await socket.send(f'{{"type":"heartbeat","timestamp":{now_ms()}}}')
                if self._stay.policy == "batched" and self._unacked:
                    await self._ack_ids(socket)
                await asyncio.sleep(_TICK_S)

    async def _ack_ids(self, socket: ClientConnection) -> None:
        ids = tuple(self._unacked)
        self._unacked.clear()
        for start in range(0, len(ids), _MAX_IDS):
            await self._ack(socket, ids[start : start + _MAX_IDS])

    async def _ack_upto(self, socket: ClientConnection) -> None:
        """只在补发收齐之后，只到连续收到的地方；洞以上的等洞补上。"""
        floor = self._position.floor
        covered = tuple(i for i, seq in self._unacked.items() if seq <= floor)
        if not self._position.flushed or not covered:
            return
        for message_id in covered:
            del self._unacked[message_id]
        await self._ack(socket, covered, upto=floor)

    async def _ack_late(self, socket: ClientConnection) -> None:
        """以前的连接上收到的，现在才确认；再冒认一条别人的。"""
        late, self._phone._late = self._phone._late, []
        if self._stay.policy == "never":
            self._phone._late = late
            return
        stranger = self._phone._ledger.strangers_message(self._phone._user_id)
        if self._stay.foreign and stranger is not None:
            await self._send_ack(socket, (stranger,), None)
        for start in range(0, len(late), _MAX_IDS):
            await self._ack(socket, tuple(late[start : start + _MAX_IDS]))

    async def _ack(
        self, socket: ClientConnection, ids: tuple[str, ...], upto: int | None = None
    ) -> None:
        for _ in range(2 if self._stay.twice else 1):
            await self._send_ack(socket, ids if upto is None else (), upto)
        self._phone._ledger.acked(self._phone._user_id, ids)

    async def _send_ack(
        self, socket: ClientConnection, ids: tuple[str, ...], upto: int | None
    ) -> None:
        self._history.write(Acked(at=now_ms(), connection=self._number, message_ids=ids, upto=upto))
        frame: dict[str, object] = {"type": "ack"}
        if upto is None:
            frame["message_ids"] = ids
        else:
            frame["upto"] = upto
        await socket.send(msgspec.json.encode(frame).decode())

    # ── 走 ──────────────────────────────────────────────────────────────────

    def _lost(self, error: ConnectionClosed) -> None:
        code = error.rcvd.code if error.rcvd is not None else None
        self._closed(code, ours=False)
        if code is not None and not may_reconnect(code):
            raise BenchError(f"the server closed a well-behaved device with {code}")

    async def _leave(self, socket: ClientConnection) -> None:
        self._closed(None, ours=True)
        if self._stay.abort:
            socket.transport.abort()
        await socket.close()

    def _closed(self, code: int | None, *, ours: bool) -> None:
        if self._left:
            return
        self._left = True
        self._history.write(Closed(at=now_ms(), connection=self._number, code=code, ours=ours))


def _decode(text: str | bytes) -> _Frame:
    """:raises BenchError: 契约里没有的帧，或缺了字段"""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise BenchError(f"a frame outside the contract: {error}") from None


def _patient_stay(gateway: int) -> Stay:
    return Stay(
        away_s=0,
        online_s=3600,
        gateway=gateway,
        policy="each",
        resume=False,
        stale=False,
        abort=False,
        twice=False,
        foreign=False,
    )


def phones_of(
    town: Town, ledger: Ledger, history: HistoryWriter, devices_per_user: int
) -> Iterator[Phone]:
    """次序同 ``Schedule.stays``。"""
    for user_id in ledger.users:
        for number in range(devices_per_user):
            yield Phone(town, ledger, history, user_id, f"{user_id}-{number}")
