"""测试用的真实 Redis Cluster：几个主、各自的副本，都在空闲端口上；搬槽、等副本提升。"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import pytest
from redis import Redis, RedisCluster
from redis.exceptions import RedisError

from meeting_push.redis.keys import Keys

from .eventually import wait_until
from .ports import free_port
from .redis_server import RedisServer, find_redis7

SLOTS: Final = 16_384
#: 大家共用、不许切换的：测试机停顿两分钟，也没有谁被当成死了。
NEVER_MS: Final = 600_000
#: 请副本接手，一次等这么久（长于 Redis 的五秒与两倍的 ``node_timeout``），至多几次。
_HANDOVER_S: Final = 15.0
_MOST_HANDOVERS: Final = 5


class ClusterServer(RedisServer):
    """其中一台；地址是整个 Cluster 的：别处当它是一台 Redis 来用。"""

    cluster_url = ""

    def __init__(self, binary: Path, directory: Path, *options: str, tls: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        #: 不给就是端口 + 10000，可能越界。
        self.bus_port = free_port()
        bus = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port))
        self._tls_port = free_port() if tls else None
        secret = ("--tls-port", str(self._tls_port)) if tls else ()
        super().__init__(binary, directory, *bus, *secret, *options)
        #: 整个 Cluster 一开始的各个主，自己可能在内。
        self.masters: Sequence[ClusterServer] = ()

    @property
    def public_port(self) -> int:
        """它报出的：别的节点、客户端从这里去。"""
        return self._tls_port or self.port

    @property
    def url(self) -> str:
        return self.cluster_url

    @property
    def together(self) -> Sequence[RedisServer]:
        return self.masters

    def foreign(self) -> Any:
        return RedisCluster(host="127.0.0.1", port=self.port, decode_responses=True)

    def keys(self, prefix: str = "") -> Keys:
        return Keys(prefix, tagged=True)


class ClusterSite:
    """``start`` 之后：``masters`` 个主平分全部槽，各有 ``replicas`` 个副本，都互相认得。

    ``node_timeout_ms``：一台这么久不答，就算死了。``covered``：留着没有人管的槽以外的个数。
    ``tls``：各开一个 TLS 的端口，证书等在 ``options`` 里；我们自己照旧走明文的。
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = NEVER_MS,
        password: str = "",
        covered: int = SLOTS,
        tls: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self._password = password or None
        self._covered = covered
        secret = ("--requirepass", password, "--masterauth", password) if password else ()
        given = (
            *("--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-replica-validity-factor", "0"),
            *("--repl-diskless-sync-delay", "0"),
            *secret,
            *options,
        )
        self.servers = [
            ClusterServer(binary, directory / f"node-{number}", *given, tls=tls)
            for number in range(masters * (1 + replicas))
        ]
        self.first_masters = self.servers[:masters]
        auth = f":{password}@" if password else ""
        seeds = ",".join(f"127.0.0.1:{one.port}" for one in self.first_masters)
        #: 全部主；``redis+cluster://``。
        self.url = f"redis+cluster://{auth}{seeds}"
        for server in self.servers:
            server.cluster_url = self.url
            server.masters = self.first_masters

    # ── 生与死 ───────────────────────────────────────────────────────────────

    def start(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            for server in self.servers:
                server.start(60)
            self._share_slots()
            self._introduce()
            self._attach_replicas()
            self.whole()
            undo.pop_all()
        return self

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def _share_slots(self) -> None:
        count = len(self.first_masters)
        bounds = [self._covered * number // count for number in range(count + 1)]
        pairs = zip(self.first_masters, pairwise(bounds), strict=True)
        for number, (server, (low, high)) in enumerate(pairs, 1):
            self.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number)
            self.ask(server, "CLUSTER", "ADDSLOTSRANGE", low, high - 1)

    def _introduce(self) -> None:
        """头一台介绍给每一台，其余由它们自己传开，如 ``redis-cli --cluster create``。

        两两互相介绍，两头同时握手，会留下一个永不成的节点，过了握手的期限（Valkey 30 秒）才没有。
        """
        first, *others = self.servers
        for other in others:
            self.ask(first, "CLUSTER", "MEET", "127.0.0.1", other.public_port, other.bus_port)
        count = len(self.servers)
        wait_until(lambda: all(len(self.nodes(one)) == count for one in self.servers), 60)

    def _attach_replicas(self) -> None:
        count = len(self.first_masters)
        for number, server in enumerate(self.servers[count:]):
            master = self.id_of(self.first_masters[number % count])
            wait_until(lambda s=server, m=master: self._knows(s, m), 30)  # type: ignore[misc]
            self.ask(server, "CLUSTER", "REPLICATE", master)

    def _knows(self, server: ClusterServer, node_id: str) -> bool:
        return "master" in self.nodes(server).get(node_id, ["", "", ""])[2]

    # ── 观察 ────────────────────────────────────────────────────────────────

    def client(self, server: ClusterServer) -> Redis:
        return Redis(
            port=server.port, password=self._password, decode_responses=True, socket_timeout=5
        )

    def ask(self, server: ClusterServer, *command: str | int) -> Any:
        with self.client(server) as client:
            return client.execute_command(*command)

    def id_of(self, server: ClusterServer) -> str:
        return str(self.ask(server, "CLUSTER", "MYID"))

    def nodes(self, server: ClusterServer) -> dict[str, list[str]]:
        """它眼里的各台：id → ``CLUSTER NODES`` 的一行。"""
        text: str = self.ask(server, "CLUSTER", "NODES")
        return {line.split(" ")[0]: line.split(" ") for line in text.splitlines()}

    @property
    def masters(self) -> list[ClusterServer]:
        """此刻管着槽的，先起的在前。"""
        return [server for server in self.servers if self._owned(server)]

    def owner_of(self, slot: int) -> ClusterServer:
        return next(
            server
            for server in self.servers
            if any(low <= slot <= high for low, high in self._owned(server))
        )

    def _owned(self, server: ClusterServer) -> list[tuple[int, int]]:
        """它自己说管着哪些；不在的、副本没有。"""
        with contextlib.suppress(RedisError, OSError):
            line = next(one for one in self.nodes(server).values() if "myself" in one[2])
            if "master" in line[2] and "fail" not in line[2].split(","):
                return [_bounds(one) for one in line[8:] if not one.startswith("[")]
        return []

    def is_whole(self) -> bool:
        """活着的每一台都说好，副本都跟上了各自的主。"""
        return all(self._is_well(server) for server in self.servers)

    def _is_well(self, server: ClusterServer) -> bool:
        with contextlib.suppress(RedisError), self.client(server) as client:
            fine = "ok" if self._covered == SLOTS else "fail"
            well = f"cluster_state:{fine}" in client.execute_command("CLUSTER", "INFO")
            replication = client.info("replication")
            if replication["role"] != "master":
                return bool(well and replication["master_link_status"] == "up")
            wanted = len(self.servers) // len(self.first_masters) - 1
            return bool(well and (not self._owned(server) or _online(replication) == wanted))
        return False

    def whole(self, timeout: float = 120) -> None:
        """等到 ``is_whole``。"""
        wait_until(self.is_whole, timeout)

    # ── 变故 ────────────────────────────────────────────────────────────────

    def promoted(self, dead: ClusterServer, slot: int, timeout: float = 60) -> ClusterServer:
        """等到 ``slot`` 归了别的主，且活着的都知道了。"""

        def another() -> ClusterServer | None:
            for server in self.servers:
                owned = self._owned(server) if server is not dead else []
                if any(low <= slot <= high for low, high in owned):
                    return server
            return None

        found = wait_until(another, timeout)
        assert found is not None
        return found

    def hand_over(self, slot: int) -> ClusterServer:
        """``CLUSTER FAILOVER``：副本接手，返回它。五秒里没有选成的就作废（机器停了一下），再请。"""
        old = self.owner_of(slot)
        heir = next(
            one
            for one in self.servers
            if one is not old and self.id_of(old) in self.nodes(one)[self.id_of(one)]
        )
        for _ in range(_MOST_HANDOVERS):
            self.ask(heir, "CLUSTER", "FAILOVER")
            with contextlib.suppress(AssertionError):
                return self.promoted(old, slot, _HANDOVER_S)
        raise AssertionError(f"{heir} did not take over in {_MOST_HANDOVERS} attempts")

    def move_slot(self, slot: int, to: ClusterServer) -> None:
        """连同里面的键搬过去，如 ``redis-cli --cluster reshard``；客户端照常用着。"""
        source = self.owner_of(slot)
        if source is to:
            return
        self.begin_moving(slot, source, to)
        self.move_keys(slot, source, to)
        self.end_moving(slot, to)

    def begin_moving(self, slot: int, source: ClusterServer, to: ClusterServer) -> None:
        self.ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))

    def move_keys(
        self, slot: int, source: ClusterServer, to: ClusterServer, only: Sequence[str] = ()
    ) -> None:
        """``only``：只搬这几个，搬到一半停下。"""
        auth = ("AUTH", self._password) if self._password else ()
        while keys := list(only) or self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            where = ("127.0.0.1", to.public_port, "", 0, 5_000)
            self.ask(source, "MIGRATE", *where, *auth, "KEYS", *keys)
            if only:
                return

    def end_moving(self, slot: int, to: ClusterServer) -> None:
        """先告诉得到它的，再告诉别的主。"""
        new = self.id_of(to)
        for server in [to, *(one for one in self.masters if one is not to)]:
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", new)


def running_cluster(site: ClusterSite) -> Iterator[ClusterSite]:
    try:
        yield site.start()
    finally:
        site.stop()


def redis7_cluster(
    directory: Path, *, replicas: int = 0, node_timeout_ms: int = NEVER_MS
) -> Iterator[ClusterSite]:
    """三个主，Redis 7；夹具 ``yield from`` 它。"""
    binary = find_redis7()
    if binary is None:
        pytest.skip("no redis-server >= 7 on PATH")
    site = ClusterSite(binary, directory, replicas=replicas, node_timeout_ms=node_timeout_ms)
    yield from running_cluster(site)


def _bounds(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _online(replication: dict[str, Any]) -> int:
    count = replication["connected_slaves"]
    return sum(replication[f"slave{number}"]["state"] == "online" for number in range(count))
