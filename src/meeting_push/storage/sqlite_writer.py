"""SQLite 的热路：同来的写共用一个事务，一个事务是一次线程往返，检查点不占写者的时间。

经 aiosqlite，一个事务是十来次往返（游标、BEGIN、每条语句、COMMIT），每一次都要排事件循环的队；
自动的检查点又在谁的 COMMIT 里，谁就停几十毫秒。这里一个线程做完整个事务，另一个线程做检查点。

一个事务在提交时新来的（接受、确认、记下已送走的）就排着，下一个把它们一起带走：加锁、落盘、抢
GIL 的代价与里面有几样无关。不急的（``patient``）再等一小会儿，搭急的那一趟。各自仍是全成或全不成：
谁的语句出了错，整个回滚，各自再来。
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..logs import RepeatedWarning
from .failures import Commit
from .sqlite import Statement, WorkThread, connect

#: 写者的页缓存；默认的 2 MB 装不下索引的热页，每次都向内核要（每行 18 → 11 µs）。
CACHE_KB: Final = 32_768
#: WAL 里没有搬的超过这么多就在旁边的线程里做检查点：越小，每次要写的越少，重复写的页越多
#: （8 → 32 MB：一批 100 条的服务器 CPU 0.93）。SQLite 的后备 ``AUTOCHECKPOINT_PAGES`` 远在其上。
CHECKPOINT_BYTES: Final = 32 * 2**20
#: 旁边的做完时余下的不超过这么多，由写者自己追上：平常只有几页，一两毫秒。
CAUGHT_UP_BYTES: Final = 4 * 2**20


#: 不急的至多等这么久，搭急的那一趟；比 ``accept_batch.PACE_S`` 长一点，每秒几百条时多半等得到。
RIDE_S: Final = 0.008


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    """自己全成或全不成。"""

    statements: Sequence[Statement]
    commit: Commit
    at_least: int
    since: float
    done: asyncio.Future[list[int]]

    def settle(self, outcome: list[int] | BaseException) -> None:
        if self.done.done():
            return
        if isinstance(outcome, BaseException):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


class SqliteWriter:
    """一个进程一个。``timeout_s`` 是等别的进程的写锁的上限。

    :param check: 每次之前在写的线程里问；它抛出就什么都不写
    :param turn: 与别的写事务轮流：每个事务在它里面
    :param note: 每个事务：头一个等了多久，做了多久（秒）
    """

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        check: Callable[[], None] = lambda: None,
        turn: AbstractAsyncContextManager[None] | None = None,
        note: Callable[[float, float], None] = lambda _waited_s, _took_s: None,
    ) -> None:
        self._path = path
        self._shm = path.with_name(path.name + "-shm")
        self._timeout_s = timeout_s
        self._check = check
        self._turn = turn or nullcontext()
        self._note = note
        self._thread: WorkThread | None = None
        self._connection: sqlite3.Connection | None = None
        #: 这条连接的 WAL-index，打开着的；还没有看过则 None。
        self._index: int | None = None
        self._beside: threading.Thread | None = None
        self._checkpoint_failed = RepeatedWarning("sqlite_checkpoint_failed")
        #: 下一个事务的；有没有急的；正等着急的来。
        self._queue: list[_Write] = []
        self._urgent = False
        self._riding: asyncio.Future[None] | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """写过，连接还开着：WAL 的文件也就该在。"""
        return self._connection is not None

    async def write(
        self,
        statements: Sequence[Statement],
        commit: Commit | None = None,
        at_least: int = 0,
        *,
        patient: bool = False,
    ) -> list[int]:
        """依次执行，返回各改了几行；返回即已提交，抛出即什么都没有写。

        第一句改的不到 ``at_least`` 行，就到此为止，什么都没有写：只返回它的。
        等待中被取消时结果不定（可能已提交）；``commit`` 记下走到了提交没有。

        :param patient: 不急：至多多等 ``RIDE_S``，与别的一起提交
        :raises sqlite3.Error: 原样；``UnicodeEncodeError``、``OverflowError`` 同
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[int]] = loop.create_future()
        since = time.perf_counter()
        self._queue.append(_Write(statements, commit or Commit(), at_least, since, done))
        if not patient:
            self._urgent = True
            if self._riding is not None:
                _arrive(self._riding)
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve(), name="sqlite-writer", context=Context())
        return await done

    async def _serve(self) -> None:
        group: list[_Write] = []
        try:
            while self._queue:
                if not self._urgent:
                    await self._ride()
                async with self._turn:
                    group = self._take()
                    await self._write(group)
        except Exception as error:  # noqa: BLE001 — 轮不到：交给等着的人
            _fail([*group, *self._take()], error)
        except BaseException as error:
            _fail([*group, *self._take()], error)  # 不能让排着的永远等下去
            raise

    def _take(self) -> list[_Write]:
        taken, self._queue, self._urgent = self._queue, [], False
        return [write for write in taken if not write.done.done()]  # 走了的不写

    async def _ride(self) -> None:
        """都不急：等一个急的。"""
        loop = asyncio.get_running_loop()
        self._riding = loop.create_future()
        timer = loop.call_later(RIDE_S, _arrive, self._riding)
        try:
            await self._riding
        finally:
            timer.cancel()
            self._riding = None

    async def _write(self, group: Sequence[_Write]) -> None:
        if not group:
            return
        if self._thread is None:
            self._thread = WorkThread("sqlite-writer")
        began = time.perf_counter()
        outcomes = await self._thread.do(self._commit, group)
        self._note(began - group[0].since, time.perf_counter() - began)
        for write, outcome in zip(group, outcomes, strict=True):
            write.settle(outcome)

    async def close(self) -> None:
        """做完手里的，关闭；此后的使用重新打开。"""
        if self._serving is not None and self._serving.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._serving])
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.do(self._disconnect)
            await asyncio.to_thread(thread.end)
        if self._beside is not None:
            await asyncio.to_thread(self._beside.join)

    # ── 写的线程 ─────────────────────────────────────────────────────────────

    def _commit(self, group: Sequence[_Write]) -> list[list[int] | BaseException]:
        """一个事务里做完 ``group``；有一个的语句不成，就整个回滚，各自一个事务。"""
        try:
            self._check()
        except Exception as error:  # noqa: BLE001 — 交给等着的人；连接留着：文件放回来就又好了
            return [error] * len(group)
        executed = False
        try:
            connection = self._begin()
            executed = True
            outcomes = [_execute(connection, write) for write in group]
            executed = False
            for write in group:
                write.commit.sent = True
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 — 交给等着的人
            self._disconnect()  # 没有提交的随之回滚；连接坏没坏都不必知道
            if executed and len(group) > 1:
                return [outcome for write in group for outcome in self._commit([write])]
            return [error] * len(group)
        self._tend_wal(connection)
        return [*outcomes]

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection, self._index = self._connection, None, None
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, self._timeout_s)

    def _tend_wal(self, connection: sqlite3.Connection) -> None:
        """WAL 长了就在旁边做检查点；旁边的做完了，追上它期间写的：追平了，下一个写者才从头写起。"""
        if self._beside is not None and self._beside.is_alive():
            return
        unmoved, done = self._unmoved_bytes(), self._beside is not None
        self._beside = None
        if done and unmoved <= CAUGHT_UP_BYTES:
            self._checkpoint(connection)
        elif done or unmoved > CHECKPOINT_BYTES:
            self._beside = threading.Thread(target=self._checkpoint_beside, daemon=True)
            self._beside.start()

    def _unmoved_bytes(self) -> int:
        """WAL 里还没有搬进库文件的；看不到就当没有，SQLite 自己有后备。

        文件的大小说明不了：从头写起时它不变小。WAL-index 的 mxFrame（第 16 字节）减 nBackfill
        （第 96 字节），本机字节序：sqlite.org/walformat.html 2.1、2.2 节。连接开着，文件不换。
        """
        try:
            if self._index is None:
                self._index = _opened(self._shm)
            written, moved = _FRAMES.unpack(os.pread(self._index, _FRAMES.size, 0))
        except (OSError, struct.error):
            return 0
        return int(max(0, written - moved)) * _FRAME_BYTES

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


def _execute(connection: sqlite3.Connection, write: _Write) -> list[int]:
    first, *rest = write.statements
    if write.at_least:
        connection.execute("SAVEPOINT untouched")
    changed = [connection.execute(*first).rowcount]
    if changed[0] < write.at_least:
        connection.execute("ROLLBACK TO untouched")
        return changed
    if write.at_least:  # 留着它，其后改的每一页都要抄一份
        connection.execute("RELEASE untouched")
    return changed + [connection.execute(*each).rowcount for each in rest]


def _arrive(riding: asyncio.Future[None]) -> None:
    if not riding.done():
        riding.set_result(None)


def _fail(group: Sequence[_Write], error: BaseException) -> None:
    for write in group:
        write.settle(error)


#: WAL 的一帧：一页与它的头。
_FRAME_BYTES: Final = 4096 + 24
#: WAL-index 的头一百字节里的 mxFrame、nBackfill。
_FRAMES: Final = struct.Struct("=16xI76xI")
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
