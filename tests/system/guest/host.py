"""把 ``tests/support/guest_app.py`` 放进一种服务器里跑着。"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import psutil

from tests.support.accounts import sign
from tests.support.child import Child
from tests.support.eventually import wait_until
from tests.support.people import Person
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET

_ROOT: Final = Path(__file__).parents[3]
_APP: Final = "tests.support.guest_app:app"
_GUNICORN: Final = "gunicorn -k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port} -w {workers}"
SERVERS: Final = {
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} --workers {workers}",
    "gunicorn": _GUNICORN,
    "gunicorn-preload": f"{_GUNICORN} --preload",
    "hypercorn": "hypercorn -b 127.0.0.1:{port} -w {workers}",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} --workers {workers}",
}


def person(user_id: int) -> Person:
    return Person(user_id, f"user-{user_id}", sign(user_id, f"user-{user_id}"))


class Host:
    """``settings`` 是 ``MEETING_PUSH_…`` 里别的设置。"""

    def __init__(
        self,
        server: str,
        directory: Path,
        redis: RedisServer,
        prefix: str,
        *,
        workers: int = 1,
        **settings: object,
    ) -> None:
        self.port = free_port()
        self._command = SERVERS[server].format(port=self.port, workers=workers).split()
        self._workers = workers
        self._log = directory / f"{server}.log"
        given = {
            "redis_url": redis.url,
            "key_prefix": prefix,
            "data_dir": directory,
            "jwt_secret": TEST_JWT_SECRET,
            "drain_window_s": 0.1,
            "presence_flush_ms": 10,
            **settings,
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
        ours = {f"MEETING_PUSH_{name.upper()}": str(value) for name, value in given.items()}
        paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._env = {**kept, **ours, "PYTHONPATH": paths}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", *self._command, _APP]
        self.child = Child(command, self._log, env=self._env, cwd=self._log.parent)
        self.pids = set[int]()
        try:
            wait_until(self._all_answer, 60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.child.stop(timeout=20)
        print(self._log.read_text(errors="replace"))

    def _all_answer(self) -> bool:
        """每个工人都答过一次：一次一条新的连接。"""
        assert self.child.running, self._log.read_text(errors="replace")
        try:
            self.pids.add(httpx.get(f"{self.url}/healthz", timeout=5, trust_env=False).json())
        except httpx.TransportError:
            return False
        return len(self.pids) == self._workers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ws_url(self, one: Person) -> str:
        return f"ws://127.0.0.1:{self.port}/push/ws/user/{one.user_id}/messages"

    def worker_of(self, port: int) -> int | None:
        """哪个工人握着从 ``port`` 来的连接。"""
        for pid in self.pids:
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.raddr and one.raddr.port == port:
                    return pid
        return None
