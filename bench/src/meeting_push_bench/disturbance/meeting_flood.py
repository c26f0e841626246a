"""灌满一场会议：每条连接都按自己的上限说话，大家都听。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ..failure import BenchError
from ..post_connection import PostConnection, post_head
from ..target import Target
from .figures import FloodOutcome
from .plan import DisturbancePlan

_CREATED: Final = 201
_OPEN_TIMEOUT_S: Final = 30.0


class _Meeting(msgspec.Struct):
    meeting_id: str


async def create_meeting(target: Target, organizer_id: int, participant_ids: list[int]) -> str:
    """:raises BenchError: 服务器不让"""
    head = post_head(target.host, target.port, "/api/v1/meetings", target.token(organizer_id))
    connection = await PostConnection.open(target.host, target.port)
    body = {"title": "bench", "participant_ids": participant_ids}
    status, answer = await connection.post(head, msgspec.json.encode(body))
    await connection.close()
    if status != _CREATED:
        raise BenchError(f"POST /meetings answered {status}: {answer.decode(errors='replace')}")
    return msgspec.json.decode(answer, type=_Meeting).meeting_id


class MeetingFlood:
    """``rate_per_s`` 是每个说话的人每秒几段，即服务器给一条连接的上限。"""

    def __init__(self, speakers: list[ClientConnection], listeners: list[ClientConnection]) -> None:
        self._speakers = speakers
        self._all = [*speakers, *listeners]
        self._segments = 0
        self._frames = 0
        self._refused = 0

    async def run(self, rate_per_s: float, text_chars: int) -> None:
        """一直说，直到被取消。

        :raises BenchError: 服务器关掉了一条：那样就不再是“按上限”
        """
        try:
            async with asyncio.TaskGroup() as group:
                for one in self._all:
                    group.create_task(self._listen(one))
                for one in self._speakers:
                    group.create_task(self._speak(one, rate_per_s, text_chars))
        except* (BenchError, ConnectionClosed) as failures:
            raise BenchError(f"the meeting was closed: {failures.exceptions[0]}") from None

    def outcome(self, seconds: float) -> FloodOutcome:
        return FloodOutcome(
            seconds=seconds, segments=self._segments, frames=self._frames, refused=self._refused
        )

    async def _speak(self, one: ClientConnection, rate_per_s: float, text_chars: int) -> None:
        segment = {"type": "segment", "text": "x" * text_chars, "start_ms": 0, "end_ms": 1}
        text = msgspec.json.encode(segment).decode()
        start = time.monotonic()
        while True:
            await one.send(text)
            self._segments += 1
            due = start + self._segments / len(self._speakers) / rate_per_s
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def _listen(self, one: ClientConnection) -> None:
        async for text in one:
            self._frames += 1
            self._refused += isinstance(text, str) and text.startswith('{"type":"error"')
        raise BenchError("closed normally")


@contextlib.asynccontextmanager
async def meeting_flood(
    target: Target, meeting_id: str, user_ids: list[int], plan: DisturbancePlan
) -> AsyncIterator[MeetingFlood]:
    """全部到场（收到 welcome）；离开时断开。"""
    url = f"ws://{target.host}:{target.port}/ws/meeting/{meeting_id}"
    async with contextlib.AsyncExitStack() as stack:
        people = [
            await stack.enter_async_context(
                connect(
                    url,
                    additional_headers={"Authorization": f"Bearer {target.token(user_id)}"},
                    open_timeout=_OPEN_TIMEOUT_S,
                    compression=None,
                    max_queue=None,  # 不说话的那几段没有人读；读不停，关闭才不用等
                    ping_interval=None,
                )
            )
            for user_id in user_ids
        ]
        for one in people:
            await asyncio.wait_for(one.recv(), _OPEN_TIMEOUT_S)
        yield MeetingFlood(people[: plan.speakers], people[plan.speakers :])
