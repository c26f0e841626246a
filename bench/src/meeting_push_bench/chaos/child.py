"""一个被折腾的进程：启动、``kill -9``、暂停、自己死了就再启动，都写进历史。"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from meeting_push.launcher import dying_with_us

from ..failure import BenchError
from .history import Died, HistoryWriter, now_ms
from .patience import Patience

#: 机器忙时光导入就要几十秒。
READY_WAIT_S: Final = 180.0
STOP_WAIT_S: Final = 20.0
_POLL_S: Final = 0.05
#: 自己退出的（例如启动时 Redis 正好不在）隔这么久再启动，像 systemd 那样。
_RELAUNCH_AFTER_S: Final = 0.3
_LOG_LINES: Final = 5


#: Linux 的临时端口段从 32768 起。
_FIRST: Final = 20_000
_LAST: Final = 32_000
_TRIES: Final = 100


def free_port() -> int:
    """避开临时端口段：服务器要反复重启，停机期间不能被某条外出连接占去。

    :raises BenchError: 试了 100 个都被占用
    """
    for port in random.sample(range(_FIRST, _LAST), _TRIES):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port")


class Child:
    """``ready`` 问它能不能干活；``lock`` 保证同一时刻只有一种故障在折腾它。"""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        ready: Callable[[], Awaitable[bool]],
        history: HistoryWriter,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.lock = asyncio.Lock()
        self.log = directory / f"{name}.log"
        self._command = dying_with_us(*command)
        self._directory = directory
        self._env = env
        self._ready = ready
        self._history = history
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._was_ready = False
        #: 启动到一半不许取消：起来了的进程会没有人认得。
        self._launching = asyncio.Lock()

    async def start(self) -> None:
        """启动并等到就绪。

        :raises BenchError: 到时还没有就绪；带着它日志的最后几行
        """
        await self._launch()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        patience = Patience(READY_WAIT_S)
        while not await self._ready():
            if patience.over():
                last = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise BenchError(
                    f"{self.name} did not become ready ({self._state()}): " + " | ".join(last)
                )
            await asyncio.sleep(_POLL_S)
        self._was_ready = True

    def send(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    def _state(self) -> str:
        if self._process is None:
            return "never started"
        code = self._process.returncode
        return f"pid {self._process.pid}" if code is None else f"exit code {code}"

    async def kill(self) -> None:
        """``kill -9``，等它消失；不再自动启动。"""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """请它退出；到时不走就杀掉。可重复调用。"""
        self.send(signal.SIGCONT)  # 暂停着的收不到别的信号
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        async with self._launching:
            watching, self._watching = self._watching, None
            if watching is not None:
                watching.cancel()
        self.send(number)
        if self._process is not None:
            await self._process.wait()

    async def _launch(self) -> None:
        self._was_ready = False
        async with self._launching:
            self._process = await self._spawn()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name=f"watch:{self.name}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,  # 没有别人的 .env
                env=self._env,
                start_new_session=True,  # 终端的 Ctrl-C 只给我们：由我们有次序地结束它
            )

    async def _watch(self) -> None:
        while True:
            assert self._process is not None, "_launch() made it"
            code = await self._process.wait()
            self._history.write(
                Died(at=now_ms(), target=self.name, exit_code=code, ready=self._was_ready)
            )
            await asyncio.sleep(_RELAUNCH_AFTER_S)
            await self._launch()
