"""profile ``string-ids``：人的 id 是 UUID，比是整数，每秒收下多少条。

一个服务器，两种人轮流：一轮整数，一轮 UUID，次序一轮一换；热身之后两种都已认识。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Final
from uuid import UUID, uuid5

import jwt
import msgspec

from meeting_push.person_id import PersonId

from .measured import MeasuredReport, Measurements, measured_run
from .post_connection import PostConnection, accepted, post_head
from .progress import Steps
from .report import Heading
from .server_under_test import ServerUnderTest, own_server

#: 目标：一段字的是整数的这么多。
GOAL_RATIO: Final = 0.95
_NAMESPACE: Final = UUID(int=0)
_LIFE_S: Final = 3600


class StringIdsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``connections`` 条连接各一个发送者，一条接一条地发给 ``people`` 里的人。"""

    rounds: int = 8
    round_s: float = 4.0
    connections: int = 16
    people: int = 200


QUICK_STRING_IDS: Final = StringIdsPlan(rounds=2, round_s=0.5, connections=4, people=20)


def run_string_ids(plan: StringIdsPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: StringIdsPlan, found: Measurements, steps: Steps) -> None:
    integers: list[PersonId] = list(range(1, plan.people + 1))
    strings: list[PersonId] = [str(uuid5(_NAMESPACE, str(number))) for number in integers]
    rates: tuple[list[float], list[float]] = ([], [])
    with own_server("native", identity="application") as server:
        arms = [await _Arm.open(server, people, plan) for people in (integers, strings)]
        for arm, people in zip(arms, (integers, strings), strict=True):
            await arm.meet(people)
            await arm.run(plan.round_s / 2)
        with steps.step(f"{plan.rounds} rounds of {plan.round_s:g} s each") as on_progress:
            for number in range(plan.rounds):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                for each in order:
                    rates[each].append(await arms[each].run(plan.round_s))
                on_progress(number + 1, plan.rounds)
        for arm in arms:
            await arm.close()
    ratio = median(text / number for number, text in zip(*rates, strict=True))
    found.add("integers", "sends with integers", median(rates[0]), "/s", "higher")
    found.add("strings", "sends with UUIDs", median(rates[1]), "/s", "higher")
    found.add("ratio", "UUIDs ÷ integers, median of pairs", ratio, "", "higher", goal=GOAL_RATIO)


class _Arm:
    def __init__(self, lines: Sequence[tuple[PostConnection, bytes]], bodies: list[bytes]) -> None:
        self._lines = lines
        self._bodies = bodies

    @classmethod
    async def open(
        cls, server: ServerUnderTest, people: Sequence[PersonId], plan: StringIdsPlan
    ) -> _Arm:
        target, now, lines = server.target, int(time.time()), []
        for sender in people[: plan.connections]:
            claims = {"sub": str(sender), "iat": now, "exp": now + _LIFE_S}
            token = jwt.encode(claims, target.jwt_secret, "HS256")
            head = post_head(target.host, target.port, "/api/v1/messages", token)
            lines.append((await PostConnection.open(target.host, target.port), head))
        bodies = [
            msgspec.json.encode({"recipient_ids": [one], "title": "t", "content": "x" * 100})
            for one in people
        ]
        return cls(lines, bodies)

    async def meet(self, people: Sequence[PersonId]) -> None:
        """一条发给所有人：此后都认识。"""
        body = {"recipient_ids": people, "title": "t", "content": "c"}
        connection, head = self._lines[0]
        accepted(*await connection.post(head, msgspec.json.encode(body)))

    async def run(self, for_s: float) -> float:
        """每秒收下多少条。"""
        began = time.perf_counter()
        counts = await asyncio.gather(
            *(self._send(n, line, began + for_s) for n, line in enumerate(self._lines))
        )
        return sum(counts) / (time.perf_counter() - began)

    async def _send(self, first: int, line: tuple[PostConnection, bytes], until: float) -> int:
        connection, head = line
        count = 0
        while time.perf_counter() < until:
            body = self._bodies[(first + count) % len(self._bodies)]
            accepted(*await connection.post(head, body))
            count += 1
        return count

    async def close(self) -> None:
        for connection, _ in self._lines:
            await connection.close()
