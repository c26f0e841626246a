"""被测的服务器：自己在临时目录里启动的一个，或用户指明的一个。"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meeting_push.errors import ConfigurationError
from meeting_push.launcher import dying_with_us
from meeting_push.settings import ACCOUNTS_AUDIENCE, load_settings

from .failure import BenchError
from .target import Target, loopback_address

READY_WAIT_S: Final = 30.0
STOP_WAIT_S: Final = 30.0
_POLL_S: Final = 0.02
_LOG_LINES: Final = 5
#: 压测要的是服务器的上限，不是一个用户的。``bench --help`` 与报告里的命令说得出这一点。
NO_LIMITS: Final = {"SENDS_PER_USER_PER_S": "0"}
#: 用户连接的两种 edge。
EDGES: Final = ("native", "asgi")
_SERVE: Final = (sys.executable, "-m", "meeting_push", "serve")


@dataclass(frozen=True, slots=True)
class ServerUnderTest:
    """``pid``：不知道就是 None，那时没有 CPU 与内存的数字；``log`` 只有自己启动的才有。"""

    target: Target
    pid: int | None
    log: Path | None = None


@contextlib.contextmanager
def own_server(edge: str, **settings: object) -> Iterator[ServerUnderTest]:
    """``serve``，内嵌 Redis 与 SQLite；离开时结束它并删掉它的目录。

    除 ``settings``（设置项 → 值）外都是默认设置。

    :raises BenchError: 起不来；带着它日志的最后几行
    """
    with tempfile.TemporaryDirectory(prefix="mp-bench-") as name:
        directory = Path(name)
        target = Target(
            host="127.0.0.1",
            port=free_port(),
            redis_url=f"unix://{directory}/data/redis/redis.sock",
            jwt_secret=secrets.token_urlsafe(32),
            jwt_audience="meeting-push",
        )
        environment = server_environment(target, directory, {"edge": edge, **settings})
        process = launch(directory, environment)
        try:
            wait_ready(process, target, directory / "log")
            yield ServerUnderTest(target, process.pid, directory / "log")
        finally:
            end(process)


@dataclass(frozen=True, slots=True)
class ExistingServer:
    """已在运行的，不论问的是哪种 edge；同 ``own_server`` 一样地用。"""

    url: str
    redis_url: str
    pid: int | None

    @contextlib.contextmanager
    def __call__(self, _edge: str) -> Iterator[ServerUnderTest]:
        yield ServerUnderTest(existing_target(self.url, self.redis_url), self.pid)


def existing_target(url: str, redis_url: str) -> Target:
    """``MEETING_PUSH_JWT_SECRET``、``…_JWT_AUDIENCE``、``…_KEY_PREFIX`` 须与那个服务器相同。

    :raises ConfigurationError: 不在本机，或没有密钥
    """
    settings = load_settings()
    if settings.auth.jwt_secret is None:
        raise ConfigurationError("with --url, MEETING_PUSH_JWT_SECRET must be the server's")
    host, port = loopback_address(url)
    return Target(
        host=host,
        port=port,
        redis_url=redis_url,
        jwt_secret=settings.auth.jwt_secret.get_secret_value(),
        jwt_audience=settings.auth.audience or ACCOUNTS_AUDIENCE,
        key_prefix=settings.redis.key_prefix,
    )


def server_environment(
    target: Target, directory: Path, settings: Mapping[str, object]
) -> dict[str, str]:
    """用户自己的 ``MEETING_PUSH_*`` 不算：每次测的是同样的默认设置，只多一条 ``NO_LIMITS``。"""
    given = {
        **NO_LIMITS,
        "HOST": target.host,
        "PORT": str(target.port),
        "DATA_DIR": str(directory / "data"),
        "JWT_SECRET": target.jwt_secret,
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return inherited | {f"MEETING_PUSH_{name}": value for name, value in given.items()}


def launch(
    directory: Path,
    environment: dict[str, str],
    log_name: str = "log",
    program: Sequence[str] = _SERVE,
) -> subprocess.Popen[bytes]:
    """``program``：怎样启动它，缺省是我们自己。"""
    with (directory / log_name).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 — 参数不来自外人
            dying_with_us(*program),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,  # 没有别人的 .env
            env=environment,
            start_new_session=True,  # 终端的 Ctrl-C 只给我们：由我们有次序地结束它
        )


def wait_ready(
    process: subprocess.Popen[bytes],
    target: Target,
    log: Path,
    is_ready: Callable[[Target], bool] | None = None,
) -> None:
    """:raises BenchError: 退出了，或到时还没有就绪；带着它日志的最后几行"""
    ready = is_ready or _is_ready
    deadline = time.monotonic() + READY_WAIT_S
    while not ready(target):
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise BenchError("the server did not become ready: " + " | ".join(last))
        time.sleep(_POLL_S)


def _is_ready(target: Target) -> bool:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port
