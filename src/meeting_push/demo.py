"""``make demo``：起一个真的服务器，把主要的活当面干一遍。

三个用户；一条消息给两个收件人，一个在两台设备上在线，一个不在线、随后才连接；确认；投递状态。
每一步都是检查：有一步不成立，退出码就不是 0。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from .client.intake import ReceivedMessage
from .client.push_client import PushClient
from .client.rest_call import DeliveryReport, Tokens
from .client.rest_client import RestClient
from .errors import MeetingPushError
from .launcher import dying_with_us
from .person_id import PersonId

START_TIMEOUT_S: Final = 60.0
STEP_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02
#: 被信号停下：同 shell 对 SIGINT 的约定。
STOPPED: Final = 130
PASSWORD: Final = secrets.token_urlsafe(12)


class DemoFailedError(Exception):
    """一步没有成立。"""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    tokens: Tokens
    rest: RestClient

    @property
    def user_id(self) -> int:
        return self.tokens.user_id


async def run(out: Console, *, once: bool, port: int) -> int:
    """返回退出码；不是 ``once`` 就一直服务到 Ctrl-C、SIGTERM、SIGHUP：先停下服务器，删掉文件夹。"""
    current = asyncio.current_task()
    assert current is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, current.cancel)
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="meeting-push-demo-") as folder:
        log = Path(folder) / "server.log"
        try:
            async with _server(out, port, Path(folder), log) as process:
                bob = await _job(out, url)
                if not once:
                    await _keep_serving(out, url, bob, process)
        except asyncio.CancelledError:
            return STOPPED
        except (DemoFailedError, MeetingPushError, TimeoutError) as error:
            out.print(f"[bold red]✗ {error or 'a step took too long'}[/]")
            out.print(log.read_text(errors="replace") if log.exists() else "", markup=False)
            return 1
    return 0


# ── 服务器 ──────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def _server(
    out: Console, port: int, folder: Path, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    out.print("[bold]meeting-push demo[/]  embedded Redis, SQLite, one process\n")
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *dying_with_us(sys.executable, "-m", "meeting_push", "serve"),
            *("--port", str(port), "--data-dir", str(folder / "data")),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            # 印出来的链接里只有访问令牌：让它够看一整天
            env=os.environ | {"MEETING_PUSH_ACCESS_TOKEN_TTL_S": "86400"},
        )
    try:
        started = time.perf_counter()
        await asyncio.wait_for(_until_ready(port, process), START_TIMEOUT_S)
        _step(out, f"the server is ready on http://127.0.0.1:{port}", time.perf_counter() - started)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(port: int, process: asyncio.subprocess.Process) -> None:
    while not await _is_ready(port):
        if process.returncode is not None:
            raise DemoFailedError(f"the server exited with {process.returncode}")
        await asyncio.sleep(POLL_S)


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    with contextlib.closing(writer):
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _keep_serving(
    out: Console, url: str, bob: Person, process: asyncio.subprocess.Process
) -> None:
    out.print("\nOpen Bob's inbox in a browser, and send him something:")
    inbox = f"{url}/inbox#token={bob.tokens.access_token}&user={bob.user_id}"
    out.print(f"  {inbox}", soft_wrap=True, markup=False)
    out.print(
        f"\nOr sign in at {url}/inbox as alice, bob or carol; "
        f"password {PASSWORD}\nREST API: {url}/docs    Ctrl-C stops it.",
        soft_wrap=True,
        markup=False,
    )
    await process.wait()


# ── 活 ──────────────────────────────────────────────────────────────────────


async def _job(out: Console, url: str) -> Person:
    alice, bob, carol = [await _join(url, name) for name in ("alice", "bob", "carol")]
    _step(out, "alice, bob and carol registered and logged in")
    async with _device(url, bob, "phone") as phone, _device(url, bob, "laptop") as laptop:
        _step(out, "bob is online on two devices; carol is away")
        sent = time.perf_counter()
        accepted = await alice.rest.send(
            [bob.user_id, carol.user_id], "Stand-up at ten", "Room 4. Bring the numbers."
        )
        _step(out, "alice sent one message to bob and carol: 202", time.perf_counter() - sent)
        arrivals = await asyncio.gather(*(_arrival(one, sent) for one in (phone, laptop)))
        for device, (message, after) in zip(("phone", "laptop"), arrivals, strict=True):
            _check(message.message_id == accepted.message_id, f"bob's {device} got another one")
            _step(out, f"bob's {device} has it", after)
        before = await alice.rest.delivery(accepted.message_id)
        _check(before.delivered == 0, "delivered before anybody acknowledged")
        _step(out, "written to a socket is not delivered: both are still pending")
        arrivals[0][0].ack()
        report, after = await _until_delivered(alice, accepted.message_id, 1)
        _step(out, "bob's phone acknowledged: delivered", after)
    _states(out, report, {bob.user_id: "bob", carol.user_id: "carol"})
    async with _device(url, carol, "tablet") as tablet:
        message, _ = await _arrival(tablet, time.perf_counter())
        _check(message.message_id == accepted.message_id, "carol got another message")
        _step(out, "carol connected: the message was waiting for her")
        message.ack()
        report, after = await _until_delivered(alice, accepted.message_id, 2)
        _step(out, "carol acknowledged: delivered", after)
    _states(out, report, {bob.user_id: "bob", carol.user_id: "carol"})
    await _nothing_waits(out, url, carol)
    return bob


async def _join(url: str, name: str) -> Person:
    await RestClient(url).register(name, PASSWORD)
    tokens = await RestClient(url).login(name, PASSWORD)
    return Person(name, tokens, RestClient(url, tokens.access_token))


@contextlib.asynccontextmanager
async def _device(url: str, person: Person, info: str) -> AsyncIterator[PushClient]:
    token = person.tokens.access_token
    async with PushClient(url, token, user_id=person.user_id, device_info=info) as client:
        await asyncio.wait_for(client.wait_connected(), STEP_TIMEOUT_S)
        yield client


async def _arrival(client: PushClient, since: float) -> tuple[ReceivedMessage, float]:
    """下一条消息，与 ``since`` 以来的秒数。"""
    message = await asyncio.wait_for(anext(aiter(client)), STEP_TIMEOUT_S)
    return message, time.perf_counter() - since


async def _until_delivered(
    sender: Person, message_id: str, count: int
) -> tuple[DeliveryReport, float]:
    started = time.perf_counter()
    async with asyncio.timeout(STEP_TIMEOUT_S):
        # 状态在服务器上，只能问
        while (report := await sender.rest.delivery(message_id)).delivered < count:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    return report, time.perf_counter() - started


async def _nothing_waits(out: Console, url: str, person: Person) -> None:
    async with _device(url, person, "tablet again") as client:
        try:
            await asyncio.wait_for(anext(aiter(client)), 0.5)
        except TimeoutError:
            _step(out, "carol connected again: nothing comes twice")
            return
    raise DemoFailedError("an acknowledged message came again")


# ── 给人看 ───────────────────────────────────────────────────────────────────


def _step(out: Console, text: str, seconds: float | None = None) -> None:
    timing = "" if seconds is None else f"  [cyan]{seconds * 1000:.1f} ms[/]"
    out.print(f"[green]✓[/] {text}{timing}", soft_wrap=True)


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise DemoFailedError(problem)


def _states(out: Console, report: DeliveryReport, names: Mapping[PersonId, str]) -> None:
    table = Table("recipient", "status", "pushed → acknowledged", box=None, padding=(0, 3))
    for state in report.recipients:
        taken = "—"
        if state.sent_at is not None and state.delivered_at is not None:
            taken = f"{state.delivered_at - state.sent_at} ms"
        table.add_row(names[state.user_id], state.status.value, taken)
    out.print(table)
