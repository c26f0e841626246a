"""ISO-1：会议灌到它的上限（每条连接都按自己的上限说话，大家都听）时，用户连接的延迟至多加倍。"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from meeting_push.settings import Settings

from ..accounts import Accounts, make_accounts
from ..failure import BenchError
from ..load.result import LatencyFigures
from ..post_connection import PostConnection, post_head
from ..progress import Steps
from ..server_under_test import ServerUnderTest
from ..target import Target
from .figures import Disturbance, FloodOutcome, Mode, Phase
from .neighbours import Neighbours, neighbours
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


_JUST_BELOW: Final = 0.95
_ORDER: Final[tuple[Mode, ...]] = ("without", "with", "with", "without")


def meeting_isolation(
    edge: str, server: ServerUnderTest, plan: DisturbancePlan, steps: Steps
) -> Disturbance:
    """:raises BenchError: 有一条消息没有到，或会议的连接被关了"""
    crowd = plan.speakers + plan.listeners
    accounts = make_accounts(server.target, plan.neighbours + crowd)
    people = accounts.recipient_ids
    others = Accounts(accounts.sender_id, people[crowd:])
    return asyncio.run(_run(edge, server, plan, others, people[:crowd], steps))


async def _run(
    edge: str,
    server: ServerUnderTest,
    plan: DisturbancePlan,
    accounts: Accounts,
    crowd: list[int],
    steps: Steps,
) -> Disturbance:
    target = server.target
    meeting_id = await create_meeting(target, crowd[0], crowd[1:])
    phases: list[Phase] = []
    floods: list[FloodOutcome] = []
    async with neighbours(target, accounts, plan.rate_per_s) as people:
        await people.measure(plan.warm_up_s)
        for number, mode in enumerate(_ORDER * plan.rounds):
            # 会议的人两种情形里都到场，只差说不说
            async with meeting_flood(target, meeting_id, crowd, plan) as flood:
                with steps.step(f"{edge} {number + 1}: {mode} a flooded meeting"):
                    if mode == "with":
                        latencies = await _during(flood, people, plan)
                        floods.append(flood.outcome(plan.phase_s))
                    else:
                        latencies = await people.measure(plan.phase_s)
            phases.append(Phase(mode=mode, latencies=latencies))
    return Disturbance(edge=edge, phases=phases, floods=floods)


async def _during(
    flood: MeetingFlood, people: Neighbours, plan: DisturbancePlan
) -> dict[str, LatencyFigures]:
    """会议的上限就是服务器的默认设置；只差一点，才不会被拒绝。"""
    rate_per_s = Settings().meeting.frames_per_s * _JUST_BELOW
    flooding = asyncio.create_task(flood.run(rate_per_s, plan.text_chars))
    measuring = asyncio.create_task(people.measure(plan.phase_s))
    await asyncio.wait({flooding, measuring}, return_when=asyncio.FIRST_COMPLETED)
    if flooding.done():
        measuring.cancel()
        flooding.result()
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)
    return await measuring
