"""一条连接的一生：拨号、welcome、收、说、走，都写进历史。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from meeting_push.protocol.codes import may_reconnect

from ..failure import BenchError
from . import wire
from .acker import Acker
from .history import (
    Closed,
    Dialled,
    Gapped,
    Heard,
    Opened,
    Received,
    Resynced,
    now_ms,
)
from .owner import Owner
from .schedule import Stay
from .town import HEARTBEAT_INTERVAL_S

OPEN_WAIT_S: Final = 8.0
_TICK_S: Final = 0.1
_STALE_EPOCH: Final = "0" * 16

_numbers = itertools.count(1)


class Visit:
    def __init__(self, owner: Owner, stay: Stay, gateway: int) -> None:
        self._owner = owner
        self._stay = stay
        self._gateway = gateway
        self._number = next(_numbers)
        self._history = owner.history
        self._position = owner.position
        self._acker = Acker(self._number, owner, stay)
        self._left = False

    async def run(self, ends_at: float) -> bool:
        """True：连上过。

        :raises BenchError: 服务器说了契约之外的话，或以“不要再来”的码关闭守规矩的设备
        """
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

    # ── 来 ──────────────────────────────────────────────────────────────────

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
                user_id=self._owner.user_id,
                device=self._owner.device,
                gateway=self._gateway,
                epoch=epoch,
                last_seq=last_seq,
            )
        )

    async def _connect(self, claim: tuple[str, int] | None) -> ClientConnection:
        owner = self._owner
        target = owner.town.gateways[self._gateway].target
        query: dict[str, str | int] = {"device_id": owner.device}
        if claim is not None:
            query |= {"epoch": claim[0], "last_seq": claim[1]}
        return await connect(
            f"{target.messages_url(owner.user_id)}?{urlencode(query)}",
            additional_headers={"Authorization": f"Bearer {target.token(owner.user_id)}"},
            proxy=None,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=None,
        )

    async def _welcome(self, socket: ClientConnection) -> bool:
        try:
            async with asyncio.timeout(OPEN_WAIT_S):
                frame = wire.decode(await socket.recv())
        except TimeoutError:
            return False
        if not isinstance(frame, wire.Welcome):
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
        """到点就走；收是一个任务，心跳与攒着的确认是另一个。"""
        await self._acker.opened(socket)
        speaking = asyncio.create_task(self._speak(socket))
        try:
            async with asyncio.timeout(max(0, ends_at - time.monotonic())):
                async for text in socket:
                    await self._take(socket, wire.decode(text))
        except TimeoutError:
            pass  # 这次在线到点了
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    # ── 收与说 ───────────────────────────────────────────────────────────────

    async def _take(self, socket: ClientConnection, frame: wire.Frame) -> None:
        match frame:
            case wire.Message():
                await self._received(socket, [frame], live=True)
            case wire.Batch():
                await self._received(socket, frame.messages, live=False)
            case wire.Gap():
                self._gapped(frame)
            case wire.Resync():
                self._resynced(frame)
            case wire.Error(temporary=False):
                raise BenchError(f"the server refused a frame: {frame.code}")
            case _:
                pass

    async def _received(
        self, socket: ClientConnection, messages: Sequence[wire.Message], *, live: bool
    ) -> None:
        heard = tuple(message.message_id for message in messages if message.broadcast_id)
        if heard:
            self._history.write(Heard(at=now_ms(), connection=self._number, message_ids=heard))
            await self._acker.heard(socket, heard)
        messages = [message for message in messages if not message.broadcast_id]
        if messages:
            await self._received_own(socket, messages, live=live)

    async def _received_own(
        self, socket: ClientConnection, messages: Sequence[wire.Message], *, live: bool
    ) -> None:
        pushes = tuple(message.push() for message in messages)
        self._history.write(
            Received(at=now_ms(), connection=self._number, live=live, pushes=pushes)
        )
        for push in pushes:
            self._position.received(push.seq)
            self._owner.ledger.arrive(push.message_id, push.title)
        await self._acker.received(socket, messages)

    def _gapped(self, frame: wire.Gap) -> None:
        self._history.write(
            Gapped(
                at=now_ms(),
                connection=self._number,
                from_seq=frame.from_seq,
                to_seq=frame.to_seq,
                reason=frame.reason,
            )
        )

    def _resynced(self, frame: wire.Resync) -> None:
        self._position.resynced(frame.epoch, frame.seq)
        self._history.write(
            Resynced(
                at=now_ms(),
                connection=self._number,
                reason=frame.reason,
                epoch=frame.epoch,
                seq=frame.seq,
            )
        )

    async def _speak(self, socket: ClientConnection) -> None:
        """心跳；攒着的确认。断开由收的一方去发现。"""
        next_beat = 0.0
        with contextlib.suppress(ConnectionClosed):
            while True:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + HEARTBEAT_INTERVAL_S
                    await socket.send(wire.heartbeat(now_ms()))
                await self._acker.tick(socket)
                await asyncio.sleep(_TICK_S)

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
