"""一支舰队：api、两个网关、工人，各是真的进程；自己的 PostgreSQL 与 Redis 7，每个节点各有一条
经代理到 Redis、到 SQL 的路，可以单独掐断。

一个模块里起一次（``conftest.fleet``）；弄坏了什么，离开之前要修好（``Fleet.mended``）。
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
from pydantic import SecretStr

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.settings import Settings
from tests.support.eventually import wait_until
from tests.support.people import Person
from tests.support.postgres_server import PostgresServer, find_postgres
from tests.support.proxy_thread import ProxyThread, proxy_thread
from tests.support.redis_server import RedisServer, find_redis7
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

#: 契约：坏了 10 秒之内不就绪，好了 10 秒之内就绪。
WITHIN_S: Final = 10.0
#: 各种等待都缩短了；契约里的时限不变。
QUICK: Final[Mapping[str, object]] = {
    "node_lease_s": 2,
    "drain_window_s": 1,
    "presence_grace_s": 0.3,
    "reconcile_interval_s": 0.5,
    "relay_grace_s": 0.5,
    "database_timeout_s": 3,
}
_tokens: Final = AccessTokens(
    Settings(_env_file=None, jwt_secret=SecretStr(TEST_JWT_SECRET)).auth,
    TEST_JWT_SECRET,
)


def person(user_id: int, role: str = "user") -> Person:
    """任何节点都认得的令牌；要收消息的人还得先注册（``support.people.register``）。"""
    return Person(user_id, f"u{user_id}", _tokens.issue(user_id, role, f"u{user_id}", 3600))


@dataclass(frozen=True)
class Readiness:
    """``/readyz`` 此刻的回答；连不上则 ``status`` 为 0。"""

    status: int
    body: dict[str, Any]

    @property
    def causes(self) -> str:
        """``failing`` 与 ``degraded`` 里写的一切。"""
        return " ".join(f"{self.body.get('failing')} {self.body.get('degraded')}".split())


def readiness(server: ServerProcess) -> Readiness:
    try:
        answer = httpx.get(f"{server.base_url}/readyz", timeout=2, trust_env=False)
    except httpx.TransportError:
        return Readiness(0, {})
    return Readiness(answer.status_code, answer.json())


def becomes(server: ServerProcess, status: int, *words: str, within: float = WITHIN_S) -> Readiness:
    """等到 ``/readyz`` 是 ``status``，回答里有 ``words``。

    :raises AssertionError: 到时还不是；带着最后的回答
    """
    now = Readiness(0, {})

    def is_so() -> bool:
        nonlocal now
        now = readiness(server)
        return now.status == status and all(word in now.causes for word in words)

    try:
        wait_until(is_so, within)
    except AssertionError:
        raise AssertionError(f"wanted {status} {words}, got {now}") from None
    return now


@dataclass
class Node:
    """一个节点与它自己的两条路。"""

    server: ServerProcess
    redis: ProxyThread
    sql: ProxyThread

    @property
    def url(self) -> str:
        return self.server.base_url


@dataclass
class Log:
    """从某一刻起一个进程写下的日志。"""

    server: ServerProcess
    start: int

    @classmethod
    def of(cls, server: ServerProcess) -> Self:
        return cls(server, len(server.output))

    @property
    def text(self) -> str:
        return self.server.output[self.start :]

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Fleet:
    """``api``、``gateways``（两个）、``worker``；``redis``、``postgres`` 归它们独用。"""

    def __init__(
        self, directory: Path, redis: RedisServer, postgres: PostgresServer, **settings: object
    ) -> None:
        self.redis = redis
        self.postgres = postgres
        self.directory = directory
        self.database_url = postgres.create_database()
        self.settings = {**QUICK, **settings}
        self._stack = contextlib.ExitStack()
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self.api = self.add("api", start=False)
            self.gateways = [self.add("gateway", start=False) for _ in range(2)]
            self.worker = self.add("worker", start=False)
            for node in self.nodes:
                node.server.launch()
            for node in self.nodes:
                wait_until(node.server.is_ready, 60)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, role: str, *, start: bool = True, **settings: object) -> Node:
        """再来一个节点；``start=False`` 只准备好，由测试 ``launch``。"""
        redis, sql = self._proxy(self.redis.port), self._proxy(self.sql_socket)
        server = ServerProcess(
            self.directory,
            redis_url=redis.through(self.redis.url),
            database_url=self.sql_url(sql.port),
            role=role,
            settings={**self.settings, **settings},
        )
        node = Node(server, redis, sql)
        self.nodes.append(node)
        self._stack.callback(self.remove, node)
        if start:
            server.start()
        return node

    def remove(self, node: Node) -> None:
        """停下它，不再算在内；可重复调用。"""
        node.server.stop()
        if node in self.nodes:
            self.nodes.remove(node)

    def _proxy(self, upstream: int | str) -> ProxyThread:
        return self._stack.enter_context(proxy_thread(upstream))

    @property
    def sql_socket(self) -> str:
        return f"{self.postgres.directory}/.s.PGSQL.5432"

    def sql_url(self, port: int) -> str:
        """这个库，经 127.0.0.1 的 ``port``。"""
        name = self.database_url.partition("?")[0].rpartition("/")[2]
        return f"postgresql://postgres@127.0.0.1:{port}/{name}"

    @contextlib.contextmanager
    def mended(self) -> Iterator[None]:
        """离开时放开全部代理，等到全体就绪：下一个测试从好的开始。"""
        try:
            yield
        finally:
            for node in self.nodes:
                node.redis.release()
                node.sql.release()
        for node in self.nodes:
            wait_until(node.server.is_ready, 3 * WITHIN_S)


@contextlib.contextmanager
def running_fleet(directory: Path, **settings: object) -> Iterator[Fleet]:
    """起一支舰队；没有 Redis 7 或 PostgreSQL 的机器上 ``FileNotFoundError``。"""
    redis7, postgres_bin = find_redis7(), find_postgres()
    if redis7 is None or postgres_bin is None:
        raise FileNotFoundError("needs redis-server >= 7 and PostgreSQL")
    with contextlib.ExitStack() as stack:
        redis = RedisServer(redis7, directory)
        stack.callback(redis.stop)
        postgres = PostgresServer(postgres_bin)
        stack.callback(postgres.stop)
        fleet = Fleet(directory, redis.start(), postgres.start(), **settings)
        yield stack.enter_context(fleet)
