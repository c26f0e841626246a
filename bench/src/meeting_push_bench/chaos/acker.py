"""一条连接上的确认：五种习惯，一种恶意。每个 ack 在发出之前记进历史。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from websockets.asyncio.client import ClientConnection

from . import wire
from .history import Acked, now_ms
from .owner import Owner
from .schedule import Stay

#: 一次 ack 至多这么多个 id（契约是 1,000）。
_MAX_IDS: Final = 500


class Acker:
    def __init__(self, connection: int, owner: Owner, stay: Stay) -> None:
        self._connection = connection
        self._owner = owner
        self._stay = stay
        #: 这条连接上收到、还没有确认的：message_id → seq。
        self._unacked: dict[str, int] = {}

    async def opened(self, socket: ClientConnection) -> None:
        """以前的连接上收到的，现在才确认；再冒认一条别人的。"""
        if self._stay.policy == "never":
            return
        stranger = self._owner.ledger.strangers_message(self._owner.user_id)
        if self._stay.foreign and stranger is not None:
            await self._send(socket, (stranger,), None)
        late = tuple(self._owner.late)
        self._owner.late.clear()
        await self._ack_ids(socket, late)

    async def received(self, socket: ClientConnection, messages: Sequence[wire.Message]) -> None:
        for message in messages:
            if message.held:
                self._owner.ledger.held.add(message.message_id)
            else:
                self._unacked[message.message_id] = message.seq
        match self._stay.policy:
            case "each":
                await self.flush(socket)
            case "upto":
                await self._ack_upto(socket)
            case "late":
                self._owner.late.extend(self._unacked)
                self._unacked.clear()
            case "batched" | "never":
                pass

    async def heard(self, socket: ClientConnection, message_ids: tuple[str, ...]) -> None:
        """广播：只按 id；一台确认了，别的设备在线的照样该有，所以不记进历史。"""
        if self._stay.policy not in ("never", "late"):
            await socket.send(wire.ack(message_ids, None))

    async def tick(self, socket: ClientConnection) -> None:
        if self._stay.policy == "batched":
            await self.flush(socket)

    async def flush(self, socket: ClientConnection) -> None:
        ids = tuple(self._unacked)
        self._unacked.clear()
        await self._ack_ids(socket, ids)

    async def _ack_ids(self, socket: ClientConnection, ids: tuple[str, ...]) -> None:
        for start in range(0, len(ids), _MAX_IDS):
            await self._ack(socket, ids[start : start + _MAX_IDS])

    async def _ack_upto(self, socket: ClientConnection) -> None:
        """只在补发收齐之后，只到连续收到的地方；洞以上的等洞补上。"""
        floor = self._owner.position.floor
        covered = tuple(i for i, seq in self._unacked.items() if seq <= floor)
        if not self._owner.position.flushed or not covered:
            return
        for message_id in covered:
            del self._unacked[message_id]
        await self._ack(socket, covered, upto=floor)

    async def _ack(
        self, socket: ClientConnection, ids: tuple[str, ...], upto: int | None = None
    ) -> None:
        for _ in range(2 if self._stay.twice else 1):
            await self._send(socket, ids if upto is None else (), upto)
        self._owner.ledger.acked(self._owner.user_id, ids)

    async def _send(self, socket: ClientConnection, ids: tuple[str, ...], upto: int | None) -> None:
        self._owner.history.write(
            Acked(at=now_ms(), connection=self._connection, message_ids=ids, upto=upto)
        )
        await socket.send(wire.ack(ids, upto))
