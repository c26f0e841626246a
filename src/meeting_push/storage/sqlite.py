"""SQLite 的热路：一个写事务、一次读是一次线程往返，检查点不占写者的时间；文件还是不是我们的那一个。

经 aiosqlite，一个事务是十来次往返（游标、BEGIN、每条语句、COMMIT），每一次都要排事件循环的队；
自动的检查点又在谁的 COMMIT 里，谁就停几十毫秒。这里一个线程做完整个事务，另一个线程做检查点。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy.engine import URL

from ..errors import ConfigurationError, DatabaseUnavailableError
from ..logs import RepeatedWarning
from .failures import Commit

P = ParamSpec("P")
T = TypeVar("T")
#: 一条语句与它的参数。
Statement = tuple[str, tuple[Any, ...]]

#: 没有人做检查点时的后备：WAL 这么多页（每页 4 KB）时，由提交的那一方自己做。
AUTOCHECKPOINT_PAGES: Final = 20_000
#: 提交与断电：见 ``database.py``。
PRAGMAS: Final = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA wal_autocheckpoint={AUTOCHECKPOINT_PAGES}",
)
#: 写者的页缓存；默认的 2 MB 装不下索引的热页，每次都向内核要（每行 18 → 11 µs）。
CACHE_KB: Final = 32_768
#: WAL 里没有搬的超过这么多就在旁边的线程里做检查点：越小，每次要写的越少，重复写的页越多。
CHECKPOINT_BYTES: Final = 8 * 2**20
#: 旁边的做完时余下的不超过这么多，由写者自己追上：平常只有几页，一两毫秒。
CAUGHT_UP_BYTES: Final = 4 * 2**20


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


class SqliteWriter:
    """一个进程一个；一次一个事务，由调用者排队。``timeout_s`` 是等别的进程的写锁的上限。

    :param check: 每次之前在写的线程里问；它抛出就什么都不写
    """

    def __init__(
        self, path: Path, timeout_s: float, check: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._shm = path.with_name(path.name + "-shm")
        self._timeout_s = timeout_s
        self._check = check
        self._thread: WorkThread | None = None
        self._connection: sqlite3.Connection | None = None
        self._beside: threading.Thread | None = None
        self._checkpoint_failed = RepeatedWarning("sqlite_checkpoint_failed")

    @property
    def connected(self) -> bool:
        """写过，连接还开着：WAL 的文件也就该在。"""
        return self._connection is not None

    async def write(
        self, statements: Sequence[Statement], commit: Commit | None = None, at_least: int = 0
    ) -> list[int]:
        """一个事务里依次执行，返回各改了几行；抛出即什么都没有写。

        第一句改的不到 ``at_least`` 行，就到此为止，什么都没有写：只返回它的。
        等待中被取消时结果不定（可能已提交）；``commit`` 记下走到了提交没有。

        :raises sqlite3.Error: 原样；``UnicodeEncodeError``、``OverflowError`` 同
        """
        if self._thread is None:
            self._thread = WorkThread("sqlite-writer")
        return await self._thread.do(self._write, statements, commit or Commit(), at_least)

    async def close(self) -> None:
        """做完手里的，关闭；此后的使用重新打开。"""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.do(self._disconnect)
            await asyncio.to_thread(thread.end)
        if self._beside is not None:
            await asyncio.to_thread(self._beside.join)

    # ── 写的线程 ─────────────────────────────────────────────────────────────

    def _write(self, statements: Sequence[Statement], commit: Commit, at_least: int) -> list[int]:
        self._check()
        if self._connection is None:
            self._connection = self._connect()
            self._connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            changed = [connection.execute(*statements[0]).rowcount]
            if changed[0] < at_least:
                connection.execute("ROLLBACK")
                return changed
            changed += [connection.execute(*each).rowcount for each in statements[1:]]
            commit.sent = True
            connection.execute("COMMIT")
        except BaseException:
            self._disconnect()  # 没有提交的随之回滚；连接坏没坏都不必知道
            raise
        self._tend_wal(connection)
        return changed

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, self._timeout_s)

    def _tend_wal(self, connection: sqlite3.Connection) -> None:
        """WAL 长了就在旁边做检查点；旁边的做完了，追上它期间写的：追平了，下一个写者才从头写起。"""
        if self._beside is not None and self._beside.is_alive():
            return
        unmoved, done = _unmoved_bytes(self._shm), self._beside is not None
        self._beside = None
        if done and unmoved <= CAUGHT_UP_BYTES:
            self._checkpoint(connection)
        elif done or unmoved > CHECKPOINT_BYTES:
            self._beside = threading.Thread(target=self._checkpoint_beside, daemon=True)
            self._beside.start()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """PASSIVE 不挡写者。"""
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            self._checkpoint_failed.say(error=str(error))

    # ── 检查点的线程 ──────────────────────────────────────────────────────────

    def _checkpoint_beside(self) -> None:
        """第二遍补上第一遍期间写的，余下的就不多了。"""
        try:
            with contextlib.closing(self._connect()) as connection:
                for _ in range(2):
                    self._checkpoint(connection)
        except sqlite3.Error as error:
            self._checkpoint_failed.say(error=str(error))


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
            with contextlib.suppress(RuntimeError):  # 事件循环没有了：没有人等着
                done.get_loop().call_soon_threadsafe(settle)
            del job, work, done, settle


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


#: WAL 的一帧：一页与它的头。
_FRAME_BYTES: Final = 4096 + 24


def _unmoved_bytes(shm: Path) -> int:
    """WAL 里还没有搬进库文件的；看不到就当没有，SQLite 自己有后备。

    文件的大小说明不了：从头写起时它不变小。WAL-index 的 mxFrame（第 16 字节）减 nBackfill（第 96
    字节），本机字节序：sqlite.org/walformat.html 2.1、2.2 节。
    """
    try:
        head = os.pread(_opened(shm), 100, 0)
        written, moved = (int(_U32.unpack_from(head, at)[0]) for at in (16, 96))
    except (OSError, struct.error):
        return 0
    return max(0, written - moved) * _FRAME_BYTES


_U32: Final = struct.Struct("=I")
#: 哪个文件（设备与编号）→ 打开着的。绝不关闭：对一个文件的任何一次 ``close`` 都丢掉本进程在它上面的
#: 全部 POSIX 锁，别的进程（``meeting-push user create``）以为没有人在用，截短它，我们死于 SIGBUS。
_OPENED: Final[dict[tuple[int, int], int]] = {}


def _opened(shm: Path) -> int:
    """:raises OSError: 没有这个文件"""
    found = shm.stat()
    which = found.st_dev, found.st_ino
    if which not in _OPENED:
        _OPENED[which] = os.open(shm, os.O_RDONLY | os.O_CLOEXEC)
    return _OPENED[which]


# ── 文件（E8） ───────────────────────────────────────────────────────────────
# 文件被删掉或换掉之后，打开着的连接照样写得成：写进一个谁也找不到的文件，重启就没有了。所以每次
# 使用之前看一眼（一次 stat，约 1 µs）。


class SqliteFile:
    """``remember`` 之后才查：在那之前文件可能还没有。"""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
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
        if now == self._ours and not (wal_open and not self._wal.exists()):
            return
        replaced = now is not None and now != self._ours
        raise DatabaseUnavailableError(
            "the database file was replaced; restart" if replaced else "the database file is gone",
            cause="file_replaced" if replaced else "file_gone",
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
