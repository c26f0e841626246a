"""问 Sentinel 主是谁：死的、挂着的、过时的、说错的各怎样；密码；哪一种连接都一样。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from meeting_push.errors import ConfigurationError, MeetingPushError, RedisUnavailableError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.lean import LeanConnection
from meeting_push.redis.probe import check_rights
from meeting_push.redis.redis_service import RedisService
from meeting_push.redis.sentinel import answering, find_master
from tests.support.certificate import self_signed
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, find_redis7
from tests.support.sentinels import SERVICE, Sentinel, SentinelSite

BINARY = find_redis7()

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no redis-server >= 7 on PATH"),
    pytest.mark.timeout(240),
]


class Lonely:
    """各自的一个主与单独的 Sentinel（``quorum`` 是 2：它从不切换）。"""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def redis(self, *options: str) -> RedisServer:
        assert BINARY is not None
        directory = self._directory / f"redis-{free_port()}"
        directory.mkdir()
        server = RedisServer(BINARY, directory, *options).start()
        self._stack.callback(server.stop)
        return server

    def sentinel(self, master_port: int, *lines: str) -> Sentinel:
        assert BINARY is not None
        directory = self._directory / f"sentinel-{free_port()}"
        sentinel = Sentinel(BINARY, directory, master_port, *lines).start()
        self._stack.callback(sentinel.stop)
        return sentinel

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Lonely]:
    lonely = Lonely(tmp_path)
    yield lonely
    lonely.close()


@pytest.fixture
async def service(sentinel_site: SentinelSite, key_prefix: str) -> AsyncIterator[RedisService]:
    service = RedisService(RedisAddress.parse(sentinel_site.url), Keys(key_prefix))
    await service.start()
    yield service
    await service.close()


def address_of(
    *hosts: str, service: str = SERVICE, auth: str = "", query: str = ""
) -> RedisAddress:
    return RedisAddress.parse(f"redis+sentinel://{auth}{','.join(hosts)}/{service}{query}")


async def found(address: RedisAddress) -> int:
    return (await find_master(address, 5)).port


async def ready(address: RedisAddress) -> RedisAddress:
    """刚起来的 Sentinel 已在听了。"""

    async def answers() -> bool:
        return (await answering(address, 5))[0] == 1

    await eventually(answers, 30)
    return address


async def refused(address: RedisAddress) -> MeetingPushError:
    with pytest.raises(MeetingPushError) as caught:
        await find_master(address, 5)
    return caught.value


def admin_of(server: RedisServer) -> Redis:
    return Redis(port=server.port)


async def test_both_kinds_of_connection_reach_the_master(
    service: RedisService, sentinel_site: SentinelSite, key_prefix: str
) -> None:
    await service.lean.execute("SET", f"{key_prefix}a", 1)
    assert await service.client.get(f"{key_prefix}a") == b"1"
    with sentinel_site.client(sentinel_site.servers[0]) as client:
        assert client.get(f"{key_prefix}a") == "1"


async def test_the_database_of_the_address_is_selected(
    sentinel_site: SentinelSite, key_prefix: str
) -> None:
    url = sentinel_site.url.removesuffix("/0") + "/3"
    service = RedisService(RedisAddress.parse(url), Keys(key_prefix))
    await service.start()
    await service.lean.execute("SET", f"{key_prefix}a", 1)
    assert await service.client.get(f"{key_prefix}a") == b"1"
    await service.close()
    with sentinel_site.client(sentinel_site.servers[0]) as client:
        assert client.get(f"{key_prefix}a") is None


async def test_a_sentinel_that_names_a_dead_master_does_not_win(
    sentinel_site: SentinelSite, lonely: Lonely
) -> None:
    stale = lonely.sentinel(free_port())
    await ready(address_of(stale.host))
    both = address_of(stale.host, sentinel_site.sentinels[0].host)
    assert await found(both) == sentinel_site.servers[0].port
    error = await refused(address_of(stale.host))
    assert isinstance(error, RedisUnavailableError)
    assert error.cause == "unreachable"


async def test_a_replica_is_not_taken_for_the_master(
    sentinel_site: SentinelSite, lonely: Lonely
) -> None:
    wrong = lonely.sentinel(sentinel_site.servers[1].port)
    error = await refused(await ready(address_of(wrong.host)))
    assert isinstance(error, RedisUnavailableError)
    assert error.cause == "readonly"
    assert "is a replica" in error.message


async def test_a_sentinel_that_hangs_holds_nobody_up(
    sentinel_site: SentinelSite, lonely: Lonely
) -> None:
    hung = lonely.sentinel(sentinel_site.servers[0].port)
    await ready(address_of(hung.host))
    hung.pause()
    assert (
        await found(address_of(hung.host, sentinel_site.sentinels[0].host))
        == sentinel_site.servers[0].port
    )
    error = await refused(address_of(hung.host))
    assert isinstance(error, RedisUnavailableError)
    assert error.cause == "timeout"


async def test_a_dead_sentinel_is_passed_over(sentinel_site: SentinelSite) -> None:
    dead = f"127.0.0.1:{free_port()}"
    assert (
        await found(address_of(dead, sentinel_site.sentinels[0].host))
        == sentinel_site.servers[0].port
    )
    error = await refused(address_of(dead))
    assert isinstance(error, RedisUnavailableError)


async def test_a_redis_named_as_sentinel_is_said_so(sentinel_site: SentinelSite) -> None:
    redis = f"127.0.0.1:{sentinel_site.servers[0].port}"
    error = await refused(address_of(redis))
    assert isinstance(error, ConfigurationError)
    assert f"{redis} is not a Sentinel" in error.message


async def test_a_wrong_service_is_said_so(sentinel_site: SentinelSite) -> None:
    error = await refused(address_of(sentinel_site.sentinels[0].host, service="other"))
    assert isinstance(error, ConfigurationError)
    assert "knows no service other" in error.message


@pytest.mark.parametrize("db", [0, 1])
async def test_a_sentinel_given_as_a_redis_is_said_so(
    sentinel_site: SentinelSite, key_prefix: str, db: int
) -> None:
    address = RedisAddress(host="127.0.0.1", port=sentinel_site.sentinels[0].port, db=db)
    with pytest.raises(ConfigurationError, match=r"redis\+sentinel://"):
        await check_rights(address, Keys(key_prefix), "probe", 5)


async def test_the_sentinels_have_a_password_of_their_own(
    sentinel_site: SentinelSite, lonely: Lonely
) -> None:
    guarded = lonely.sentinel(sentinel_site.servers[0].port, "requirepass hunter2")
    right = await ready(address_of(guarded.host, query="?sentinel_password=hunter2"))
    assert await found(right) == sentinel_site.servers[0].port
    for query in ("", "?sentinel_password=hunter3", "?sentinel_username=x&sentinel_password=y"):
        error = await refused(address_of(guarded.host, query=query))
        assert isinstance(error, ConfigurationError)
        assert f"the Sentinel at {guarded.host} refused the credentials" in error.message
        assert "hunter" not in error.message


async def test_the_master_has_its_own_password(lonely: Lonely) -> None:
    master = lonely.redis("--requirepass", "hunter2")
    sentinel = lonely.sentinel(master.port, f"sentinel auth-pass {SERVICE} hunter2")
    await ready(address_of(sentinel.host))
    assert await found(address_of(sentinel.host, auth=":hunter2@")) == master.port
    for auth in ("", ":hunter3@", "ann:hunter2@"):
        error = await refused(address_of(sentinel.host, auth=auth))
        assert isinstance(error, ConfigurationError)
        assert "Redis refused the credentials" in error.message
        assert "hunter" not in error.message


async def test_a_master_that_loads_is_waited_for(lonely: Lonely) -> None:
    """不是主、也不是坏地址：稍后再来。"""
    master = lonely.redis()
    sentinel = lonely.sentinel(master.port)
    address = await ready(address_of(sentinel.host))
    master.pause()
    error = await refused(address)
    assert isinstance(error, RedisUnavailableError)
    assert error.cause == "timeout"


async def test_without_sentinels_the_connections_stay(lonely: Lonely) -> None:
    master = lonely.redis()
    sentinel = lonely.sentinel(master.port)
    service = RedisService(await ready(address_of(sentinel.host)), Keys())
    await service.start()
    await service.client.ping()
    sentinel.kill()
    await service.ping()
    assert service.reconnects == 0
    master.restart()  # 拨不了新的
    await eventually(lambda: not service.lean.connected)
    sentinel.start()
    await eventually(lambda: service.lean.connected, 30)
    await service.ping()
    await service.close()


async def test_a_pooled_connection_to_a_demoted_master_is_dropped(lonely: Lonely) -> None:
    master, other = lonely.redis(), lonely.redis()
    sentinel = lonely.sentinel(master.port)
    service = RedisService(await ready(address_of(sentinel.host)), Keys())
    await service.client.set("a", 1)
    with admin_of(master) as admin:
        admin.replicaof("127.0.0.1", other.port)
    with pytest.raises(RedisUnavailableError, match=r"READONLY|is a replica"):
        await service.client.set("a", 2)
    with pytest.raises(RedisUnavailableError, match="is a replica"):
        await service.client.set("a", 2)
    with admin_of(master) as admin:
        admin.replicaof("NO", "ONE")
    await service.client.set("a", 3)
    await service.close()


async def test_a_replica_without_its_master_is_left(lonely: Lonely) -> None:
    """MASTERDOWN：留在这条连接上只会一直被拒绝。"""
    server = lonely.redis("--replica-serve-stale-data", "no")
    lean = LeanConnection(RedisAddress.parse(server.url))
    await lean.connect()
    with admin_of(server) as admin:
        admin.replicaof("127.0.0.1", free_port())
    with pytest.raises(RedisUnavailableError) as caught:
        await lean.execute("GET", "a")
    assert caught.value.cause == "master_down"
    await eventually(lambda: not lean.connected)
    await lean.close()


async def test_tls_to_the_sentinels_and_to_the_master(
    lonely: Lonely, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = [
        *("tls-cert-file", str(certificate), "tls-key-file", str(tmp_path / "key.pem")),
        *("tls-ca-cert-file", str(certificate), "tls-auth-clients", "no", "tls-replication", "yes"),
    ]
    pairs = list(zip(tls[::2], tls[1::2], strict=True))
    master_port, sentinel_port = free_port(), free_port()
    options = [text for name, value in pairs for text in (f"--{name}", value)]
    lonely.redis(*options, "--tls-port", str(master_port))
    lines = [f"{name} {value}" for name, value in pairs]
    lonely.sentinel(master_port, *lines, f"tls-port {sentinel_port}")
    url = f"rediss+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}"
    service = RedisService(await ready(RedisAddress.parse(url)), Keys())
    await service.start()
    await service.ping()
    await service.close()
