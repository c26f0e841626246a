"""参加比较的：我们，与 ``bench/peers/`` 里的三个；各是一个进程，用同一个 Redis。"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meeting_push.launcher import dying_with_us
from meeting_push.redis.embedded import find_server

from ..failure import BenchError
from ..load.orders import Dialect
from ..server_under_test import end, free_port, launch, server_environment, wait_ready
from ..target import Target

OURS: Final = "meeting-push"
_INSTALL: Final = "pip install --require-hashes -r requirements/peers.txt"
_AUDIENCE: Final = "meeting-push"
_REDIS_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Contender:
    """``program`` 为 None 是我们自己；``needs``：没装它就不能参加。"""

    name: str
    about: str
    program: str | None = None
    needs: str | None = None
    dialect: Dialect = "meeting-push"


CONTENDERS: Final = (
    Contender(OURS, "serve --role gateway"),
    Contender("fastapi", "a hand-written ConnectionManager, uvicorn", "fastapi_manager.py"),
    Contender(
        "socketio",
        "python-socketio, AsyncRedisManager, uvicorn",
        "socketio_server.py",
        needs="socketio",
        dialect="socketio",
    ),
    Contender("picows", "a bare picows loop over bare hiredis: the upper bound", "picows_loop.py"),
)


def peers_directory() -> Path:
    """源码检出里的 ``bench/peers``。

    :raises BenchError: 装好的包里没有它
    """
    directory = Path(__file__).resolve().parents[3] / "peers"
    if not directory.is_dir():
        raise BenchError("the peers are part of the source checkout: bench/peers is not here")
    return directory


def check_installed(contenders: tuple[Contender, ...]) -> None:
    """:raises BenchError: 缺什么，怎样装"""
    missing = [c.needs for c in contenders if c.needs and not importlib.util.find_spec(c.needs)]
    if missing:
        raise BenchError(f"not installed: {', '.join(missing)}; run: {_INSTALL}  (or: make peers)")


@contextlib.contextmanager
def running(contender: Contender, directory: Path, redis_url: str) -> Iterator[tuple[Target, int]]:
    """一个新的进程；产出它的坐标与 pid。

    :raises BenchError: 起不来
    """
    target = Target(
        host="127.0.0.1",
        port=free_port(),
        redis_url=redis_url,
        jwt_secret=secrets.token_urlsafe(32),
        jwt_audience=_AUDIENCE,
    )
    log = directory / f"{contender.name}.log"
    process = _start(contender, directory, target, log)
    try:
        wait_ready(process, target, log, accepts if contender.program else None)
        yield target, process.pid
    finally:
        end(process)


def _start(
    contender: Contender, directory: Path, target: Target, log: Path
) -> subprocess.Popen[bytes]:
    if contender.program is None:
        settings: dict[str, object] = {"role": "gateway", "redis_url": target.redis_url}
        return launch(directory, server_environment(target, directory, settings), log.name)
    script = peers_directory() / contender.program
    where = ("--port", str(target.port), "--redis-url", target.redis_url)
    environment = os.environ | {"BENCH_JWT_SECRET": target.jwt_secret}
    return launch(directory, environment, log.name, (sys.executable, str(script), *where))


def accepts(target: Target) -> bool:
    """端口开了：它们都在准备好之后才监听。"""
    try:
        socket.create_connection((target.host, target.port), timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def throwaway_redis(directory: Path) -> Iterator[str]:
    """不持久化的 Redis，在 unix socket 上；产出它的地址。

    :raises BenchError: 起不来
    """
    path = directory / "redis.sock"
    with redis_running(directory, "--port", "0", "--unixsocket", str(path)):
        yield f"unix://{path}"


@contextlib.contextmanager
def redis_running(directory: Path, *arguments: str, program: Path | None = None) -> Iterator[int]:
    """``directory`` 里的 Redis，没有快照；听得见了才产出它的 pid。

    :param program: 没有给：内嵌的那一个
    :raises BenchError: 起不来
    """
    path = (program or find_server().path).absolute()  # 它在别的目录里起
    command = (str(path), "--save", "", *arguments)
    process = subprocess.Popen(  # noqa: S603 — 参数不来自外人
        dying_with_us(*command),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _REDIS_WAIT_S
        while not _listens(arguments):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("redis-server did not start")
            time.sleep(0.02)
        yield process.pid
    finally:
        end(process)


def _listens(arguments: Sequence[str]) -> bool:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    path = given.get("--unixsocket")
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as probe:
        return probe.connect_ex(path or ("127.0.0.1", int(given["--port"]))) == 0
