"""SQLite 的热路：一个写事务是一次线程往返，检查点不占写者的时间；文件还是不是我们的那一个。

经 aiosqlite，一个事务是十来次往返（游标、BEGIN、每条语句、COMMIT），每一次都要排事件循环的队；
自动的检查点又在谁的 COMMIT 里，谁就停几十毫秒。这里一个线程做完整个事务，另一个线程做检查点。
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from ..errors import DatabaseUnavailableError
from ..logs import RepeatedWarning
from .failures import Commit

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
#: WAL 超过这么大就在旁边的线程里做检查点：越小，每次要写的越少，重复写的页越多。
CHECKPOINT_BYTES: Final = 8 * 2**20


class SqliteWriter:
    """一个进程一个；一次一个事务，由调用者排队。``timeout_s`` 是等别的进程的写锁的上限。"""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._timeout_s = timeout_s
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._connection: sqlite3.Connection | None = None
        self._checkpointing: Future[None] | None = None
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
        if self._threads is None:
            self._threads = (_thread("sqlite-writer"), _thread("sqlite-checkpoint"))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads[0], self._write, statements, commit or Commit(), at_least
        )

    async def close(self) -> None:
        """做完手里的，关闭；此后的使用重新打开。"""
        threads, self._threads = self._threads, None
        if threads is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(threads[0], self._disconnect)
            for thread in threads:
                await asyncio.to_thread(thread.shutdown)

    # ── 写的线程 ─────────────────────────────────────────────────────────────

    def _write(self, statements: Sequence[Statement], commit: Commit, at_least: int) -> list[int]:
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
        self._checkpoint_beside()
        return changed

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False
        )
        for pragma in PRAGMAS:
            connection.execute(pragma)
        return connection

    def _checkpoint_beside(self) -> None:
        if self._checkpointing is not None and not self._checkpointing.done():
            return
        threads = self._threads
        if threads is not None and _size(self._wal) > CHECKPOINT_BYTES:
            self._checkpointing = threads[1].submit(self._checkpoint)

    # ── 检查点的线程 ──────────────────────────────────────────────────────────

    def _checkpoint(self) -> None:
        """PASSIVE 不挡写者；第二遍补上第一遍期间写的，追平了，下一个写者就从 WAL 的头写起。"""
        try:
            with contextlib.closing(self._connect()) as connection:
                for _ in range(2):
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            self._checkpoint_failed.say(error=str(error))


def _thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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
