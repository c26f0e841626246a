"""一条一条地发，服务器每隔几秒被 ``kill -9`` 一次：收下了的一条也不少（DLV-1）。

只杀 ``serve``，它的 Redis 是另一个进程（``with_redis`` 则内嵌着，一起死）。发送者带着
``Idempotency-Key`` 重试；收件人是 SDK 的设备，自己重连。最后每条都在设备上，记录里是 delivered。
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import secrets
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from meeting_push.client.rest_client import RestClient
from meeting_push.monitoring.latency import LatencyHistogram
from meeting_push.redis.embedded import EmbeddedRedis

from .accounts import Accounts, make_accounts
from .failure import BenchError
from .measured import MeasuredReport, Measurements, measured_run
from .post_connection import PostConnection, accepted, post_head
from .progress import OnProgress, Steps
from .report import Heading
from .rolling.people import Device, devices
from .server_under_test import end, free_port, launch, server_environment, wait_ready
from .target import Target


class KillsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``connections``：同时发的几条连接；``rate_per_s``：每秒至多几条，0 = 能多快就多快。

    ``checked``：每隔几条问一次记录里的状态。
    """

    messages: int = 100_000
    users: int = 20
    connections: int = 16
    rate_per_s: float = 0
    every_s: float = 5
    with_redis: bool = False
    checked: int = 100


QUICK_KILLS: Final = KillsPlan(
    messages=200, users=3, connections=4, rate_per_s=100, every_s=1, checked=10
)

_PATIENCE_S: Final = 120.0
_MAILBOX: Final = 100_000
_RETRY_AFTER_S: Final = 0.05
_POLL_S: Final = 0.05


def run_kills(plan: KillsPlan, heading: Heading, steps: Steps) -> MeasuredReport:
    """:raises BenchError: 起不来，或一条发送太久没有结果"""
    return measured_run(plan, _measure, heading, steps)


async def _measure(plan: KillsPlan, found: Measurements, steps: Steps) -> None:
    async with _victim(plan) as victim:
        with steps.step(f"{plan.users} accounts"):
            accounts = await asyncio.to_thread(make_accounts, victim.target, plan.users)
        post, latency = _Post(victim.target, accounts, plan), LatencyHistogram()
        async with devices(victim.target, accounts.recipient_ids, 1, latency) as people:
            with steps.step(f"send {plan.messages:,}, kill -9 every {plan.every_s} s") as progress:
                start = time.monotonic()
                await _send_under_fire(post, victim, plan, progress)
                found.add("seconds", "sending", time.monotonic() - start, "s")
            with steps.step("the last arrivals"):
                missing = await _all_arrived(people, post)
        with steps.step("the record"):
            states = await _recorded(victim.target, accounts, post.accepted[:: plan.checked])
    _report(found, plan, victim, post, people, missing, states)


# ── 服务器 ──────────────────────────────────────────────────────────────────


class _Victim:
    def __init__(self, directory: Path, redis_url: str | None) -> None:
        self._directory = directory
        # 设备退避着的几十秒里，信箱装得下：挤出的是 failed，不是丢了，可也不在设备上
        self._settings: dict[str, object] = {"mailbox_max_entries": _MAILBOX}
        if redis_url is not None:
            self._settings["redis_url"] = redis_url
        own = f"unix://{directory}/data/redis/redis.sock"
        self.target = Target(
            host="127.0.0.1",
            port=free_port(),
            redis_url=redis_url or own,
            jwt_secret=secrets.token_urlsafe(32),
            jwt_audience="meeting-push",
        )
        self.kills = 0
        self._process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = server_environment(self.target, self._directory, self._settings)
        process = launch(self._directory, environment, f"log-{self.kills}")
        wait_ready(process, self.target, self._directory / f"log-{self.kills}")
        return process

    def kill(self) -> None:
        """:raises BenchError: 再也起不来"""
        self._process.kill()
        self._process.wait()
        self.kills += 1
        self._process = self._launch()

    def end(self) -> None:
        end(self._process)


@contextlib.asynccontextmanager
async def _victim(plan: KillsPlan) -> AsyncIterator[_Victim]:
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mp-bench-")))
        redis = None if plan.with_redis else EmbeddedRedis(directory / "redis")
        if redis is not None:
            await redis.start()
            stack.push_async_callback(redis.stop)
        victim = await asyncio.to_thread(_Victim, directory, redis.url if redis else None)
        try:
            yield victim
        finally:
            await asyncio.to_thread(victim.end)


# ── 发送 ────────────────────────────────────────────────────────────────────


class _Post:
    """``accepted``：(id, 收件人)，得到了 202 的；``tries``：一共发了几次。"""

    def __init__(self, target: Target, accounts: Accounts, plan: KillsPlan) -> None:
        self._target = target
        self._recipients = accounts.recipient_ids
        token = target.token(accounts.sender_id)
        self._head = post_head(target.host, target.port, "/api/v1/messages", token)
        self._left = iter(range(plan.messages))
        self._spacing_s = 1 / plan.rate_per_s if plan.rate_per_s else 0.0
        self._since = time.monotonic()
        self.accepted: list[tuple[str, int]] = []
        self.tries = 0

    async def keep_posting(self) -> None:
        """一条长连接，断了就重拨。"""
        connection: PostConnection | None = None
        for number in self._left:
            due = self._since + number * self._spacing_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            deadline = time.monotonic() + _PATIENCE_S
            at_ns = str(time.monotonic_ns())  # 重试的也是它：同一个键，同样的内容
            while True:
                try:
                    connection = connection or await self._open()
                    await self._post(connection, number, at_ns)
                    break
                except BenchError:
                    if connection is not None:
                        await connection.close()
                    connection = None
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(_RETRY_AFTER_S)
        if connection is not None:
            await connection.close()

    async def _open(self) -> PostConnection:
        return await PostConnection.open(self._target.host, self._target.port)

    async def _post(self, connection: PostConnection, number: int, at_ns: str) -> None:
        user_id = self._recipients[number % len(self._recipients)]
        body = {"recipient_ids": [user_id], "title": at_ns, "content": "kill -9"}
        self.tries += 1
        head = self._head + b"Idempotency-Key: kills-%d\r\n" % number
        status, answer = await connection.post(head, msgspec.json.encode(body))
        if status != http.client.ACCEPTED:
            raise BenchError(f"POST /messages answered {status}")
        self.accepted.append((accepted(status, answer).message_id, user_id))


async def _post_all(post: _Post, connections: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(post.keep_posting())


async def _send_under_fire(
    post: _Post, victim: _Victim, plan: KillsPlan, on_progress: OnProgress
) -> None:
    async def fire() -> None:
        while True:
            await asyncio.sleep(plan.every_s)
            await asyncio.to_thread(victim.kill)
            on_progress(len(post.accepted), plan.messages)

    firing = asyncio.create_task(fire())
    try:
        posting = asyncio.create_task(_post_all(post, plan.connections))
        await asyncio.wait({posting, firing}, return_when=asyncio.FIRST_COMPLETED)
        if firing.done():
            firing.result()
        await posting
    finally:
        firing.cancel()
        await asyncio.gather(firing, return_exceptions=True)


# ── 对账 ────────────────────────────────────────────────────────────────────


async def _all_arrived(people: Sequence[Device], post: _Post) -> int:
    """等到齐；返回还缺几条。"""
    deadline = time.monotonic() + _PATIENCE_S
    received = {one.user_id: one.received for one in people}
    while missing := sum(message_id not in received[user] for message_id, user in post.accepted):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_POLL_S)
    return missing


async def _recorded(
    target: Target, accounts: Accounts, sample: Sequence[tuple[str, int]]
) -> Counter[str]:
    """记录里各是什么状态；确认的记录比设备收到晚几毫秒。"""
    api = RestClient(target.base_url, target.token(accounts.sender_id))
    states = Counter[str]()
    deadline = time.monotonic() + _PATIENCE_S
    for message_id, _ in sample:
        state = "pending"
        while state == "pending" and time.monotonic() < deadline:
            await asyncio.sleep(0)
            [recipient] = (await api.delivery(message_id)).recipients
            state = recipient.status
        states[state] += 1
    return states


def _report(
    found: Measurements,
    plan: KillsPlan,
    victim: _Victim,
    post: _Post,
    people: Sequence[Device],
    missing: int,
    states: Counter[str],
) -> None:
    found.add("kills", "kill -9 of the server", victim.kills)
    found.add("accepted", "accepted", len(post.accepted), "", "higher", plan.messages)
    found.add("retries", "sends tried again", post.tries - len(post.accepted))
    ids = len({message_id for message_id, _ in post.accepted})
    found.add("ids", "  messages of their own", ids, "", "higher", plan.messages)
    found.add("missing", "accepted and not on the device", missing, "", "lower", 0)
    twice = sum(times > 1 for one in people for times in one.received.values())
    found.add("twice", "seen twice by the application", twice, "", "lower", 0)
    known = {message_id for message_id, _ in post.accepted}
    stray = sum(len(one.received.keys() - known) for one in people)
    found.add("stray", "received, never accepted", stray, "", "lower", 0)
    asked = sum(states.values())
    found.add(
        "delivered",
        f"recorded as delivered, of {asked:,}",
        states["delivered"],
        "",
        "higher",
        asked,
    )
