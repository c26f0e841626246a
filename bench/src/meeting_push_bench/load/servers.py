"""被测的服务器们：自己启动的（一个什么都做的，或按角色分开的），或用户指明的。"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from meeting_push.errors import ConfigurationError

from ..server_under_test import (
    end,
    existing_target,
    free_port,
    launch,
    server_environment,
    wait_ready,
)
from ..target import Target
from .processes import Census


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """命令行给的；``url`` 为 None 就自己启动，此外的设置照 ``settings``（名 → 值）。"""

    url: str | None = None
    ws_url: str | None = None
    redis_url: str | None = None
    database_url: str | None = None
    pids: tuple[int, ...] = ()
    settings: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Servers:
    """``api`` 与 ``gateway`` 只差端口；``sql_url`` 是我们够得着的数据库，够不着为 None。"""

    api: Target
    gateway: Target
    census: Census
    gateways: int
    own: bool
    sql_url: str | None
    logs: list[Path] = field(default_factory=list)


@contextlib.contextmanager
def servers(gateways: int, options: Options) -> Iterator[Servers]:
    """``gateways`` 为 0 是一个 ``serve``；否则 api、worker 各一个，网关这么多个，共用一个端口。

    :raises BenchError: 起不来
    :raises ConfigurationError: 给的地址不能用
    """
    if options.url is not None:
        yield _existing(options)
        return
    with tempfile.TemporaryDirectory(prefix="mp-load-") as name, contextlib.ExitStack() as stack:
        yield _start(Path(name), gateways, options, stack)


def _existing(options: Options) -> Servers:
    if options.redis_url is None:
        raise ConfigurationError("--url needs --redis-url: transient messages are published there")
    api = existing_target(options.url or "", options.redis_url)
    gateway = existing_target(options.ws_url or options.url or "", options.redis_url)
    roots = {"server": list(options.pids)} if options.pids else {}
    return Servers(api, gateway, Census(roots), 1, False, options.database_url)


def _start(
    directory: Path, gateways: int, options: Options, stack: contextlib.ExitStack
) -> Servers:
    main = Target(
        host="127.0.0.1",
        port=free_port(),
        redis_url=options.redis_url or f"unix://{directory}/data/redis/redis.sock",
        jwt_secret=secrets.token_urlsafe(32),
        jwt_audience="meeting-push",
        key_prefix=f"bench-{secrets.token_hex(4)}:" if options.redis_url else "",
        partitions=int(options.settings.get("queue_partitions", "1")),
    )
    team = _Team(directory, options, stack)
    sql_url = options.database_url or f"sqlite:///{directory}/data/meeting-push.db"
    # 第一个带着内嵌的 Redis；其余的用它的套接字，正如分开部署时用同一个 Redis
    first = "api" if gateways else "server"
    team.start(first, main, role="api" if gateways else "all", redis_url=options.redis_url)
    gateway = main
    if gateways:
        gateway = msgspec.structs.replace(main, port=free_port())
        team.start("worker", _elsewhere(main), role="worker", redis_url=main.redis_url)
        team.start("gateway", gateway, role="gateway", workers=gateways, redis_url=main.redis_url)
    census = Census({role: [pid] for role, pid in team.pids.items()})
    return Servers(main, gateway, census, max(1, gateways), True, sql_url, team.logs)


def _elsewhere(target: Target) -> Target:
    return msgspec.structs.replace(target, port=free_port())


class _Team:
    """依次启动，倒序结束（Redis 的主人最后走）。"""

    def __init__(self, directory: Path, options: Options, stack: contextlib.ExitStack) -> None:
        self._directory = directory
        self._options = options
        self._stack = stack
        self.pids: dict[str, int] = {}
        self.logs: list[Path] = []

    def start(self, name: str, target: Target, **settings: object) -> None:
        """:raises BenchError: 没有就绪"""
        own = {key: value for key, value in settings.items() if value is not None}
        given: dict[str, object] = {**self._options.settings, **own}
        if self._options.database_url is not None:
            given["database_url"] = self._options.database_url
        if target.key_prefix:
            given["key_prefix"] = target.key_prefix
        environment = server_environment(target, self._directory, given)
        process = launch(self._directory, environment, f"{name}.log")
        self._stack.callback(end, process)
        log = self._directory / f"{name}.log"
        self.logs.append(log)
        wait_ready(process, target, log)
        self.pids[name] = process.pid
