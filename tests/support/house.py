"""一套真的系统：一个 Redis、一个数据库、几个服务器进程，一起启动。"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import pytest

from meeting_push.redis.keys import QueueKeys
from meeting_push.settings import Settings, load_settings

from .accounts import create_people
from .clusters import NEVER_MS, ClusterSite
from .eventually import wait_until
from .people import Person
from .postgres_server import PostgresServer, find_postgres
from .redis_server import RedisServer, find_embedded_redis, find_redis7
from .sentinels import SentinelSite
from .server_process import TEST_JWT_SECRET, ServerProcess

#: 名字 → (角色, 它自己的设置)。
Parts = Mapping[str, tuple[str, Mapping[str, object]]]
#: 同一套系统的两个节点。
TWINS: Final[Parts] = {"near": ("all", {}), "far": ("all", {})}


class House:
    """``shared`` 是大家的设置；没有给 ``database_url`` 就是 ``directory`` 里大家共用的 SQLite。"""

    def __init__(
        self,
        directory: Path,
        redis_server: RedisServer,
        *,
        database_url: str | None = None,
        shared: Mapping[str, object] | None = None,
    ) -> None:
        self.redis_server = redis_server
        self.database_url = database_url or f"sqlite:///{directory}/data/meeting-push.db"
        self.servers: dict[str, ServerProcess] = {}
        self.directory = directory
        self._given_url = database_url
        self._shared = dict(shared or {})
        self.keys = redis_server.keys(str(self._shared.get("key_prefix", "")))
        #: 外来的客户端，一个前缀也不知道。
        self.redis: Any = redis_server.foreign()

    def add(self, name: str, role: str = "all", **settings: object) -> ServerProcess:
        """再添一个，还没有启动。"""
        self.servers[name] = ServerProcess(
            self.directory,
            redis_url=self.redis_server.url,
            database_url=self._given_url,
            role=role,
            settings={**self._shared, **settings},
        )
        return self.servers[name]

    def start(self, role: str = "all", **settings: object) -> ServerProcess:
        return self.add(f"{role}-{len(self.servers)}", role, **settings).start()

    def __enter__(self) -> Self:
        try:
            for server in self.servers.values():
                server.launch()
            for server in self.servers.values():
                wait_until(server.is_ready, 60)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """不讲客气：从容关机归别的测试。"""
        for server in self.servers.values():
            if server.running:
                server.kill()
            server.stop()
        self.redis.close()

    def __getitem__(self, name: str) -> ServerProcess:
        return self.servers[name]

    @property
    def near(self) -> ServerProcess:
        return self["near"]

    @property
    def far(self) -> ServerProcess:
        return self["far"]

    @property
    def settings(self) -> Settings:
        """有了它，测试进程也成为其中一员。"""
        return load_settings(
            redis_url=self.redis_server.url,
            database_url=self.database_url,
            jwt_secret=TEST_JWT_SECRET,
            **self._shared,
        )

    @property
    def queue_keys(self) -> QueueKeys:
        """只有一个分区时的。"""
        [keys] = QueueKeys.of(self.keys, 1)
        return keys

    def kill_redis(self) -> None:
        """只用在 ``own`` 的上面；Cluster 的每个主。"""
        for server in self.redis_server.together:
            server.kill()

    def start_redis(self) -> None:
        for server in self.redis_server.together:
            server.start(60)

    async def people(self, count: int, role: str = "user") -> list[Person]:
        return await create_people(self.database_url, count, role)

    async def admin(self) -> Person:
        return (await self.people(1, "admin"))[0]


#: 怎样的 Redis 与数据库。
Engines = Literal[
    "own",
    "own-valkey",
    "own-sentinel",
    "own-cluster",
    "own-postgres",
    "sqlite",
    "postgres",
    "sentinel",
    "cluster",
]
#: 与别人共用的。
_SHARED: Final = {
    "sqlite": "embedded_redis_server",
    "postgres": "redis7_server",
    "sentinel": "sentinel_server",
    "cluster": "cluster_server",
}


@contextlib.contextmanager
def own_redis(kind: str, directory: Path) -> Iterator[RedisServer]:
    """``own-sentinel``、``own-cluster``：Redis 7，从不切换；``own-valkey``：内嵌的 Valkey；
    别的：Redis 7，没有则内嵌的。
    """
    binary = find_embedded_redis() if kind == "own-valkey" else find_redis7()
    if binary is None and kind in ("own", "own-postgres"):
        binary = find_embedded_redis()
    if binary is None:
        pytest.skip(f"no redis-server here for {kind}")
    site: RedisServer | SentinelSite | ClusterSite = RedisServer(binary, directory)
    if kind == "own-sentinel":
        site = SentinelSite(binary, directory, replicas=1, down_after_ms=NEVER_MS)
    elif kind == "own-cluster":
        site = ClusterSite(binary, directory)
    try:
        site.start()
        yield site if isinstance(site, RedisServer) else site.servers[0]
    finally:
        site.stop()


@contextlib.contextmanager
def _engines(
    kind: str, request: pytest.FixtureRequest, directory: Path
) -> Iterator[tuple[RedisServer, str | None]]:
    """``own``：自己的 Redis，可以杀；别的与别人共用：SQLite 配 Valkey、Sentinel 看着的或 Cluster，
    PostgreSQL 配 Redis 7。
    """
    with contextlib.ExitStack() as undo:
        url = None
        if kind == "postgres" or (kind == "own-postgres" and find_postgres()):
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            url = postgres.create_database()
            undo.callback(postgres.drop_database, url)
        if not kind.startswith("own"):
            yield request.getfixturevalue(_SHARED[kind]), url
            return
        yield undo.enter_context(own_redis(kind, directory)), url


def house_fixture(
    parts: Parts,
    *,
    shared: Mapping[str, object] | None = None,
    engines: Sequence[Engines] = ("own",),
    scope: Literal["module", "package"] = "module",
) -> Callable[..., Iterator[House]]:
    """唯一的 ``house``：一个包或一个模块一套，``house = house_fixture(...)``。"""

    @pytest.fixture(scope=scope, params=engines)
    def house(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[House]:
        directory = tmp_path_factory.mktemp("house")
        with _engines(request.param, request, directory) as (redis, url):
            prefix = {} if request.param.startswith("own") else {"key_prefix": f"{directory.name}:"}
            one = House(directory, redis, database_url=url, shared={**(shared or {}), **prefix})
            for name, (role, own) in parts.items():
                one.add(name, role, **own)
            with one:
                yield one

    return house
