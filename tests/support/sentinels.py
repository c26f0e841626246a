"""测试用的真实 Sentinel 部署：一个主、几个副本、几个 Sentinel，都在空闲端口上。"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from redis import Redis
from redis.exceptions import RedisError

from .child import Child
from .eventually import wait_until
from .ports import free_port
from .redis_server import RedisServer

SERVICE: Final = "meeting"


class Sentinel:
    """一个 Sentinel 进程；端口与配置在 ``kill`` 之后不变。"""

    def __init__(self, binary: Path, directory: Path, master_port: int, *lines: str) -> None:
        self.port = free_port()
        self._binary = binary
        self._directory = directory
        self._child: Child | None = None
        directory.mkdir(exist_ok=True)
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            "\n".join(
                [
                    f"port {self.port}",
                    "bind 127.0.0.1",
                    f"dir {directory}",
                    f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2",
                    *lines,
                ]
            )
        )

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        assert self._child is None, "already started"
        command = [str(self._binary), str(self._config), "--sentinel"]
        self._child = Child(command, self._directory / "sentinel.log")
        return self

    def kill(self) -> None:
        child = self._running()
        child.send(signal.SIGCONT)
        child.kill()
        self._child = None

    def pause(self) -> None:
        self._running().send(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send(signal.SIGCONT)

    def stop(self) -> None:
        if self._child is not None:
            self.kill()

    def client(self) -> Redis:
        return Redis(port=self.port, decode_responses=True, socket_timeout=2)

    def _running(self) -> Child:
        assert self._child is not None, "not started"
        return self._child


class WatchedServer(RedisServer):
    """地址是看着它的 Sentinel：别处当它是一台 Redis 来用。"""

    watched_as = ""

    @property
    def url(self) -> str:
        return self.watched_as


class SentinelSite:
    """``start`` 之后：一主、``replicas`` 个副本，三个 Sentinel 都互相认得、认得全部副本。

    ``down_after_ms``：主这么久不答，就算死了。
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        replicas: int = 2,
        down_after_ms: int = 1_000,
        password: str = "",
    ) -> None:
        secret = ("--requirepass", password, "--masterauth", password) if password else ()
        self._auth = f":{password}@" if password else ""
        self._password = password or None
        first = WatchedServer(binary, _made(directory / "redis-0"), *secret)
        self.servers = [first] + [
            WatchedServer(
                binary,
                _made(directory / f"redis-{number}"),
                *("--replicaof", f"127.0.0.1 {first.port}", "--repl-diskless-sync-delay", "0"),
                *secret,
            )
            for number in range(1, replicas + 1)
        ]
        lines = [
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 5000",
            f"sentinel parallel-syncs {SERVICE} {replicas}",
            *([f"sentinel auth-pass {SERVICE} {password}"] if password else []),
        ]
        self.sentinels = [
            Sentinel(binary, directory / f"sentinel-{number}", first.port, *lines)
            for number in range(3)
        ]
        for server in self.servers:
            server.watched_as = self.url

    @property
    def url(self) -> str:
        hosts = ",".join(one.host for one in self.sentinels)
        return f"redis+sentinel://{self._auth}{hosts}/{SERVICE}/0"

    def start(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            for server in self.servers:
                server.start()
            for sentinel in self.sentinels:
                sentinel.start()
            wait_until(lambda: all(map(self._complete, self.sentinels)), 30)
            undo.pop_all()
        return self

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()

    @property
    def master(self) -> RedisServer:
        """此刻 Sentinel（多数）说的主。"""
        ports = [port for port in map(self._master_port, self.sentinels) if port]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def client(self, server: RedisServer) -> Redis:
        return Redis(
            port=server.port, password=self._password, decode_responses=True, socket_timeout=2
        )

    def promoted(self, dead: RedisServer, timeout: float = 60) -> RedisServer:
        """等到主换成别的，且它自己也知道了。"""

        def another() -> RedisServer | None:
            master = self.master
            return master if master is not dead and self._role(master) == "master" else None

        found = wait_until(another, timeout)
        assert found is not None
        return found

    def whole(self, timeout: float = 60) -> None:
        """等到全部副本都跟上现在的主。"""
        wait_until(self._in_sync, timeout)

    def _in_sync(self) -> bool:
        with contextlib.suppress(RedisError), self.client(self.master) as client:
            info = client.info("replication")
            replicas = [info[f"slave{n}"] for n in range(info["connected_slaves"])]
            online = [one for one in replicas if one["state"] == "online"]
            return info["role"] == "master" and len(online) == len(self.servers) - 1
        return False

    def _role(self, server: RedisServer) -> str:
        with contextlib.suppress(RedisError), self.client(server) as client:
            return str(client.role()[0])
        return ""

    def _master_port(self, sentinel: Sentinel) -> int:
        with contextlib.suppress(RedisError), sentinel.client() as client:
            found = client.sentinel_get_master_addr_by_name(SERVICE)
            return int(found[1]) if found else 0
        return 0

    def _complete(self, sentinel: Sentinel) -> bool:
        with contextlib.suppress(RedisError), sentinel.client() as client:
            state = client.sentinel_master(SERVICE)
            enough = state["num-slaves"] == len(self.servers) - 1
            return bool(enough and state["num-other-sentinels"] == 2)
        return False


def running_site(site: SentinelSite) -> Iterator[SentinelSite]:
    try:
        yield site.start()
    finally:
        site.stop()


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
