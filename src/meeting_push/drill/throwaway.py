"""自己起的一套：自己的 redis-server、SQLite、空着的端口、缩短了窗口的规则，通知送到这里。

离开时一个进程也不留，文件夹也删掉；演练被 ``kill -9`` 时内核替它请各进程走（``launcher.py``）。
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
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from ..auth.access_tokens import AccessTokens
from ..client.rest_client import RestClient
from ..errors import MeetingPushError
from ..launcher import dying_with_us
from ..model import ADMIN_ROLE
from ..redis.embedded import find_server
from ..settings import AuthSettings
from .stand_ins import Receiver, RedisProxy, redis_proxy
from .system import System

START_S: Final = 60.0
STOP_S: Final = 15.0
POLL_S: Final = 0.05
TOKEN_S: Final = 3_600
#: 各种等待都缩短了；契约里的时限不变。
QUICK: Final[Mapping[str, object]] = {
    "alerts_interval_s": 0.5,
    "stats_interval_s": 0.5,
    "expiry_interval_s": 0.5,
    "redis_timeout_s": 3,
    "database_timeout_s": 3,
    "node_lease_s": 3,
    "canary_interval_s": 0.5,
    "canary_deaf_s": 2,
    "presence_grace_s": 0.3,
    "drain_window_s": 0.2,
    "shutdown_grace_s": 2,
    "handshakes_per_user_per_s": 1_000,
    "handshakes_per_user_burst": 10_000,
}


class DrillFailedError(MeetingPushError):
    """演练自己没有做成（不是要看的没有看到）。"""


class AlreadyFiringError(MeetingPushError):
    """弄坏之前规则就在触发：这台机器自己正是那个样子，看不出什么。"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``change``：规则改哪几项；``roles``：几个 ``serve``，看第一个；``proxied``：经代理到 Redis。

    ``workers``：一个 ``serve`` 几个进程；``max_open_files``：各进程的描述符上限；
    ``quick``：各种等待缩短。
    """

    change: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    roles: tuple[str, ...] = ("all",)
    workers: int = 1
    quick: bool = True
    proxied: bool = False
    max_open_files: int | None = None
    #: 还有一个会坏的渠道（``Receiver.broken``），后备是好的那个。
    broken_channel: bool = False
    #: 有一个接收事件的（``Receiver.gone``）。
    webhook: bool = False


class Process:
    """一个子进程；可以反复起、杀、停，``stop`` 之后什么也不留。"""

    def __init__(self, command: tuple[str, ...], folder: Path, name: str) -> None:
        self._command = command
        self._folder = folder
        self.log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, environment: Mapping[str, str], max_open_files: int | None) -> None:
        limit = f"ulimit -n {max_open_files}; " if max_open_files else ""
        with self.log.open("ab") as sink:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_us("/bin/sh", "-c", f'{limit}exec "$0" "$@"', *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self._folder,
                env=dict(environment),
                start_new_session=True,  # 终端里的 Ctrl-C 只给演练：由它修好、收拾
            )

    async def kill(self) -> None:
        """``kill -9``。"""
        if self._process is not None and self.running:
            self._process.kill()
            await self._process.wait()

    async def ended(self) -> None:
        """自己走了；等不到就杀。"""
        assert self._process is not None, "not started"
        try:
            await self._process.wait()
        finally:
            await self.kill()

    async def stop(self) -> None:
        """先请，到时杀。"""
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    def tail(self, lines: int) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


# ── 一套 ─────────────────────────────────────────────────────────────────────


class Throwaway:
    """``nodes`` 里的第一个是看着的；``redis`` 是它们的 Redis。"""

    def __init__(self, folder: Path, plan: Plan, receiver: Receiver) -> None:
        self.folder = folder
        self.receiver = receiver
        self.nodes: list[Process] = []
        self._plan = plan
        self._ports: list[int] = []
        self._jwt_secret = secrets.token_urlsafe(32)
        self._webhooks = folder / "webhooks.yml"
        self._redis_port = free_port()
        self._redis: Process | None = None
        self._proxy: RedisProxy | None = None
        self._system: System | None = None

    @property
    def system(self) -> System:
        assert self._system is not None, "not started"
        return self._system

    @property
    def redis(self) -> Process:
        assert self._redis is not None, "not started"
        return self._redis

    @property
    def redis_url(self) -> str:
        """不经代理的。"""
        return f"redis://127.0.0.1:{self._redis_port}/0"

    @property
    def proxy(self) -> RedisProxy:
        assert self._proxy is not None, "the plan says not proxied"
        return self._proxy

    @property
    def rules(self) -> Path:
        """规则与渠道的文件。"""
        return self.folder / "alerts.yml"

    @property
    def webhook(self) -> str:
        """接收事件的地址。"""
        return f"http://127.0.0.1:{self.receiver.port}/events"

    @property
    def port(self) -> int:
        """看着的那一个的。"""
        return self._ports[0]

    @property
    def database(self) -> Path:
        return self.folder / "data" / "meeting-push.db"

    async def start(self, stack: AsyncExitStack) -> None:
        """起齐、都就绪；收拾的事挂在 ``stack`` 上。

        :raises DrillFailedError: 有一个退出了
        :raises TimeoutError: 到时还没有就绪
        """
        self._write_rules()
        self._redis = await self._make_redis(stack)
        if self._plan.proxied:
            self._proxy = await stack.enter_async_context(redis_proxy(self._redis_port))
        for role in self._plan.roles:
            await self.add_node(stack, role)
        async with asyncio.timeout(START_S):
            await self._until_ready()
        self._system = await self._make_operator()

    async def add_node(self, stack: AsyncExitStack, role: str, **settings: object) -> Process:
        """再起一个；不等它就绪。"""
        port = free_port()
        command = (
            *(sys.executable, "-m", "meeting_push", "serve", "--port", str(port)),
            *("--role", role, "--workers", str(self._plan.workers)),
            *("--data-dir", str(self.folder / "data")),
        )
        node = Process(command, self.folder, f"node-{len(self.nodes)}-{role}")
        stack.push_async_callback(node.stop)
        await self.start_node(node, **settings)
        self.nodes.append(node)
        self._ports.append(port)
        return node

    async def start_node(self, node: Process, **settings: object) -> None:
        await node.start(self._environment(settings), self._plan.max_open_files)

    async def command(self, *words: str) -> None:
        """``meeting-push …``，设置与各节点的相同。"""
        command = (sys.executable, "-m", "meeting_push", *words)
        one = Process((*command, "--data-dir", str(self.folder / "data")), self.folder, words[0])
        await self.start_node(one)
        await one.ended()

    async def start_redis(self) -> None:
        await self.redis.start(os.environ, None)

    async def mended(self) -> None:
        """还在的都就绪了就返回。"""
        while not await self._all_ready():  # noqa: ASYNC110 — 在别的进程里，只能问
            await asyncio.sleep(POLL_S)

    def logs(self, lines: int) -> str:
        """各进程最后的几行。"""
        return "\n".join(f"── {one.log.name}\n{one.tail(lines)}" for one in self.nodes)

    # ── 起 ──────────────────────────────────────────────────────────────────

    def _write_rules(self) -> None:
        channels = [{"name": "drill", "url": self.receiver.url("hook"), "group_s": 0.2}]
        if self._plan.broken_channel:
            url, extra = self.receiver.url("broken"), {"group_s": 0.2, "fallback": "drill"}
            channels = [{"name": "broken", "url": url, **extra}, *channels]
        text = yaml.safe_dump({"rules": dict(self._plan.change), "channels": channels})
        self.rules.touch(0o600)
        self.rules.write_text(text)
        if self._plan.webhook:
            hook = {"url": self.webhook, "secret": f"whsec_{secrets.token_hex(16)}"}
            self._webhooks.touch(0o600)
            self._webhooks.write_text(yaml.safe_dump([hook]))

    async def _make_redis(self, stack: AsyncExitStack) -> Process:
        binary = await asyncio.to_thread(find_server)
        command = (
            *(str(binary.path), "--port", str(self._redis_port), "--bind", "127.0.0.1"),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "no", "--maxmemory-policy", "noeviction"),
        )
        redis = Process(command, self.folder, "redis")
        stack.push_async_callback(redis.stop)
        await redis.start(os.environ, None)
        return redis

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
        given = {
            **(QUICK if self._plan.quick else {}),
            "alerts": self.rules,
            "jwt_secret": self._jwt_secret,
            "redis_url": self._proxy.url if self._proxy else self.redis_url,
            **({"webhooks": self._webhooks} if self._plan.webhook else {}),
            **self._plan.settings,
            **settings,
        }
        return inherited | {f"MEETING_PUSH_{k.upper()}": str(v) for k, v in given.items()}

    async def _make_operator(self) -> System:
        """演练的人：一个真的账号，令牌照管理员签。"""
        url = f"http://127.0.0.1:{self._ports[0]}"
        registered = await RestClient(url).register("drill", secrets.token_urlsafe(12))
        settings = AuthSettings(identity="accounts")
        token = AccessTokens(settings, self._jwt_secret).issue(
            registered.user_id, ADMIN_ROLE, "drill", TOKEN_S
        )
        return System(url, token)

    async def _until_ready(self) -> None:
        while not await self._all_ready():
            if gone := next((one for one in self.nodes if not one.running), None):
                raise DrillFailedError(f"a server exited while starting:\n{gone.tail(5)}")
            await asyncio.sleep(POLL_S)

    async def _all_ready(self) -> bool:
        for node, port in zip(self.nodes, self._ports, strict=True):
            if node.running and not await System(f"http://127.0.0.1:{port}", "-").is_ready():
                return False
        return True


@contextlib.asynccontextmanager
async def throwaway(plan: Plan) -> AsyncIterator[Throwaway]:
    """:raises DrillFailedError: 起不来"""
    async with AsyncExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="meeting-push-drill-"))
        )
        receiver = Receiver()
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        stack.callback(server.close)
        receiver.port = server.sockets[0].getsockname()[1]
        site = Throwaway(folder, plan, receiver)
        try:
            await site.start(stack)
        except TimeoutError:
            raise DrillFailedError(f"not ready in {START_S:.0f} s:\n{site.logs(5)}") from None
        yield site


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
