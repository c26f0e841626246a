"""SQLite：怎样连上；一次读是一次线程往返；文件还是不是我们的那一个。写见 ``sqlite_writer.py``。"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy.engine import URL

from ..errors import ConfigurationError, DatabaseUnavailableError

P = ParamSpec("P")
T = TypeVar("T")
#: 一条语句与它的参数。
Statement = tuple[str, tuple[Any, ...]]

#: 没有人做检查点时的后备：WAL 这么多页（每页 4 KB，共 160 MB）时，由提交的那一方自己做。
AUTOCHECKPOINT_PAGES: Final = 40_000
#: 提交与断电：见 ``database.py``。
PRAGMAS: Final = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}",
)


def sqlite_url(url: URL) -> URL:
    """换成 aiosqlite 的 URL。

    :raises ConfigurationError: 不是文件
    """
    # 内存库随连接消失，各连接互不相见：既不能保存消息，也不能给几个进程用。
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise ConfigurationError("database_url: SQLite needs a file, e.g. sqlite:///data/push.db")
    return url.set(drivername="sqlite+aiosqlite")


def prepare(dbapi_connection: Any, _record: object) -> None:
    """引擎的 ``connect``。"""
    cursor = dbapi_connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


class SqliteReader:
    """一个进程一个：一条短的查询一次线程往返，与写者互不等待（WAL）。"""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._thread: WorkThread | None = None
        self._connection: sqlite3.Connection | None = None

    async def rows(self, statement: Statement) -> list[tuple[Any, ...]]:
        """:raises sqlite3.Error: 原样"""
        if self._thread is None:
            self._thread = WorkThread("sqlite-reader")
        return await self._thread.do(self._rows, statement)

    async def close(self) -> None:
        """做完手里的，关闭；此后的使用重新打开。"""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.do(self._disconnect)
            await asyncio.to_thread(thread.end)

    def _rows(self, statement: Statement) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = connect(self._path, self._timeout_s)
        try:
            return self._connection.execute(*statement).fetchall()
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


def give_back_pages(path: Path, timeout_s: float, most: int) -> None:
    """文件末尾空着的页还给文件系统，至多 ``most`` 页；阻塞，一个写事务。"""
    with contextlib.closing(connect(path, timeout_s)) as connection:
        # ``execute`` 只走一步，一步是一页
        connection.executescript(f"PRAGMA incremental_vacuum({most})")


def copy_database(path: Path, to: Path) -> None:
    """一刻的一份，写着也行：一个读事务里抄完，不挡写者；阻塞。

    :raises DatabaseUnavailableError: 读不了，或磁盘满了
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(address, uri=True)) as source,
            contextlib.closing(sqlite3.connect(to)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise DatabaseUnavailableError(f"the database can not be copied: {error}") from None


def fold_wal(path: Path) -> None:
    """没有人用着的文件：预写日志并进去，旁边不留文件；阻塞。"""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class WorkThread:
    """一条线程，一次一件，按交来的次序。

    一次往返约是 ``run_in_executor`` 的一半：没有它的两种 Future 与条件变量。
    """

    def __init__(self, name: str) -> None:
        self._jobs = SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """等待中被取消，事情照做。"""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((partial(work, *args, **named), done))
        return await done

    def end(self) -> None:
        """做完手里的；阻塞。"""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            try:
                settle = partial(_succeed, done, work())
            except BaseException as error:  # noqa: BLE001 — 交给等着的人
                settle = partial(_fail, done, error)
            try:  # noqa: SIM105 — 热路
                done.get_loop().call_soon_threadsafe(settle)
            except RuntimeError:  # 事件循环没有了：没有人等着
                pass
            del job, work, done, settle


class WriteTurn:
    """一个进程里的写者轮流，先来先得；没有人占着就不起计时器。"""

    def __init__(self, timeout_s: float) -> None:
        self._lock = asyncio.Lock()
        self._timeout_s = timeout_s
        self._waiting = 0

    async def __aenter__(self) -> None:
        """:raises TimeoutError: 等了 ``timeout_s`` 还没有轮到"""
        if not self._waiting and not self._lock.locked():
            await self._lock.acquire()
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._lock.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_raised: object) -> None:
        self._lock.release()


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


# ── 文件（E8） ───────────────────────────────────────────────────────────────
# 文件被删掉或换掉之后，打开着的连接照样写得成：写进一个谁也找不到的文件，重启就没有了。所以每次
# 使用之前看一眼（一次 stat，约 1 µs）。


class SqliteFile:
    """``remember`` 之后才查：在那之前文件可能还没有。"""

    def __init__(self, path: Path) -> None:
        # 写的线程每个事务都看：``Path`` 的要贵一倍
        self._name, self._wal = str(path), f"{path}-wal"
        self._ours: tuple[int, int] | None = None

    def remember(self) -> None:
        """此刻在那里的就是我们的。"""
        self._ours = self._identity()

    def check(self, *, wal_open: bool) -> None:
        """``wal_open``：我们开着它的预写日志，所以那个文件也该在。

        :raises DatabaseUnavailableError: 不是了；放回去就好，放不回去就得恢复备份、重启
        """
        if self._ours is None:
            return
        now = self._identity()
        if now == self._ours and not (wal_open and not os.access(self._wal, os.F_OK)):
            return
        replaced = now is not None and now != self._ours
        raise DatabaseUnavailableError(
            "the database file was replaced; restart" if replaced else "the database file is gone",
            cause="file_replaced" if replaced else "file_gone",
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name)
        except OSError:
            return None
        return found.st_dev, found.st_ino
