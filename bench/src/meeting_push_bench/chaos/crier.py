"""隔一阵发一条给所有人的；有键，直到接受。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Final

import msgspec

from ..failure import BenchError
from ..post_connection import PostConnection, post_head
from .history import Cried, HistoryWriter, now_ms
from .schedule import Schedule
from .town import Town

_PATH: Final = "/api/v1/messages/broadcast"
_ADMIN_ID: Final = 900_000_000
_ACCEPTED: Final = 202
_RETRY_S: Final = 0.3


class _Answer(msgspec.Struct):
    message_id: str


class Crier:
    def __init__(self, town: Town, schedule: Schedule, history: HistoryWriter) -> None:
        self._town = town
        self._schedule = schedule
        self._history = history

    async def run(self) -> None:
        """直到计划的都被接受。"""
        start = time.monotonic()
        for number, at_s in enumerate(self._schedule.broadcasts):
            await asyncio.sleep(max(0, start + at_s - time.monotonic()))
            await self._cry(number)

    async def _cry(self, number: int) -> None:
        for api in itertools.count(number):
            with contextlib.suppress(BenchError):  # 没有得到回答：同一个键再来
                message_id = await self._post(number, api % len(self._town.apis))
                if message_id is not None:
                    self._history.write(Cried(at=now_ms(), message_id=message_id))
                    return
            await asyncio.sleep(_RETRY_S)

    async def _post(self, number: int, api: int) -> str | None:
        target = self._town.apis[api].target
        head = post_head(target.host, target.port, _PATH, target.token(_ADMIN_ID, "admin"))
        body = {"title": f"broadcast {number}", "content": "to everybody"}
        connection = await PostConnection.open(target.host, target.port)
        try:
            status, answer = await connection.post(
                head + b"Idempotency-Key: chaos-broadcast-%d\r\n" % number,
                msgspec.json.encode(body),
            )
        finally:
            await connection.close()
        if status != _ACCEPTED:
            return None
        return msgspec.json.decode(answer, type=_Answer).message_id
