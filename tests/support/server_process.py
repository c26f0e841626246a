"""测试用的真实服务器进程：``python -m meeting_push serve``。"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import httpx

from .child import Child
from .eventually import wait_until
from .ports import free_port

#: 长度满足 HS256 的建议（≥ 32 字节）；只用于测试。
TEST_JWT_SECRET: Final = "test-secret-test-secret-test-secret!"


class ServerProcess:
    """一个服务器；端口、数据目录与日志在 ``kill``、``start`` 之后不变。

    没有给 ``redis_url`` / ``database_url`` 就用内嵌 Redis / SQLite（都在 ``directory`` 里）。
    ``settings`` 是别的设置项，例如 ``settings={"heartbeat_timeout_s": 1}``。工作目录是
    ``directory``，环境里原有的 ``MEETING_PUSH_*`` 被去掉：开发者的 .env 影响不了测试。``python``：
    用哪个环境里装着的；``source``：用那个文件夹里的源码，而不是装着的。
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        redis_url: str | None = None,
        database_url: str | None = None,
        role: str = "all",
        workers: int = 1,
        settings: Mapping[str, object] | None = None,
        max_open_files: int | None = None,
        python: str = sys.executable,
        source: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.directory = directory
        self.log = directory / f"server-{self.port}.log"
        self.database_url = database_url or f"sqlite:///{directory}/data/meeting-push.db"
        self._options = (
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--role", role, "--workers", str(workers)),
            *("--data-dir", str(directory / "data")),
            *(("--redis-url", redis_url) if redis_url else ()),
            *(("--database-url", database_url) if database_url else ()),
            *options,
        )
        self._env = _environment(settings or {}, own=python == sys.executable)
        self.source = source
        self._prefix = (
            ("sh", "-c", f'ulimit -n {max_open_files}; exec "$0" "$@"') if max_open_files else ()
        )
        self._python = python
        self._child: Child | None = None
        self._ended: list[Child] = []

    def start(self, timeout: float = 50.0) -> Self:
        """启动并等到 ``/readyz`` 回答 200。

        :raises AssertionError: 它退出了（带着它的输出），或到时还没有就绪
        """
        self.launch()
        try:
            wait_until(self.is_ready, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """启动，不等待（测“拒绝启动”时用）。"""
        assert self._child is None, "already started"
        command = [*self._prefix, self._python, "-m", "meeting_push", "serve", *self._options]
        source = {} if self.source is None else {"PYTHONPATH": str(self.source)}
        self._child = Child(command, self.log, env=self._env | source, cwd=self.directory)

    def kill(self) -> None:
        """只对主进程 ``kill -9``（它的后代如何是被测的事）；之后可以再 ``start``。"""
        child, self._child = self._running_child(), None
        self._ended.append(child)
        child.kill()

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM，等它从容退出，返回退出码。"""
        code = self._running_child().terminate(timeout=timeout)
        self._ended.append(self._running_child())
        self._child = None
        return code

    def stop(self) -> None:
        """无论如何结束它和它的后代，打印日志（pytest 只在失败时显示）；可重复调用。"""
        if self._child is not None:
            self._ended.append(self._child)
            self._child = None
        while self._ended:
            self._ended.pop().stop()
        print(self.output)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """启动过，而没有被 ``kill``、``terminate`` 或 ``stop``。"""
        return self._child is not None

    @property
    def pid(self) -> int:
        return self._running_child().pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ws_url(self, user_id: int, **query: str | int) -> str:
        path = f"ws://127.0.0.1:{self.port}/ws/user/{user_id}/messages"
        return f"{path}?{urlencode(query)}" if query else path

    def is_ready(self) -> bool:
        """``/readyz`` 此刻是否回答 200。"""
        assert self._running_child().running, f"the server exited:\n{self.output}"
        return answers(self.base_url)

    def _running_child(self) -> Child:
        assert self._child is not None, "not started"
        return self._child


def answers(base_url: str) -> bool:
    """``/readyz`` 此刻是 200；也许隔着一个代理。"""
    try:
        answer = httpx.get(f"{base_url}/readyz", timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _environment(settings: Mapping[str, object], *, own: bool = True) -> dict[str, str]:
    """``own``：就是测试自己的 Python；别的环境里装着什么，不由 ``PYTHONPATH`` 说。"""
    taken = ("MEETING_PUSH_",) if own else ("MEETING_PUSH_", "PYTHON")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(taken)}
    given = {"jwt_secret": TEST_JWT_SECRET, **settings}
    return inherited | {f"MEETING_PUSH_{name.upper()}": str(v) for name, v in given.items()}
