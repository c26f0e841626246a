"""数据库连接：SQLite（aiosqlite）或 PostgreSQL（asyncpg）；以及应用交来的事务。"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, cast

from sqlalchemy import Connection, Executable, Row, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from ..errors import (
    DatabaseUnavailableError,
)
from ..histogram import Histogram
from ..logs import logger
from ..private_files import keep_private, private_file, private_folder
from ..settings import DatabaseSettings
from .engine import asks_for_it, async_url, asyncpg_url, create_engine, is_behind_one
from .event_outbox import EventOutbox
from .failures import Commit, converted_failures, uncertain_commit
from .migration import downgrade, is_current, migrate, pending, script_of
from .naming import BARE, UNSAID, Wanted, find_naming, version_of
from .renaming import rename
from .sqlite import SqliteFile, SqliteReader, Statement, WriteTurn, give_back_pages
from .sqlite_writer import SqliteWriter

#: 事务里传来传去的连接；别处用这个名字，不必导入 SQLAlchemy。
SqlConnection = AsyncConnection

_PG_TIME: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
#: 等别的进程迁移完、以及迁移本身的上限。
MIGRATION_TIMEOUT_S: Final = 600.0

# WAL 下 NORMAL 提交时不落盘：进程被杀不丢，断电会丢最近的提交。“已接受就不丢”（DLV-1）
# 以提交为准，所以取 FULL（``sqlite.PRAGMAS``）；实测每次提交 0.2 ms，NORMAL 为 0.02 ms
# （SSD，ext4）。


@dataclass(frozen=True, slots=True)
class DatabaseFigures:
    """从启动起：每条语句（SQLite 的热路：每个事务）多久，等连接、等轮到写多久，失败的原因。"""

    statements: Histogram = field(default_factory=Histogram)
    waits: Histogram = field(default_factory=Histogram)
    failures: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def converted(self) -> Iterator[None]:
        """同 ``converted_failures``，并数一数。"""
        try:
            with converted_failures():
                yield
        except DatabaseUnavailableError as error:
            self.failures[error.cause] += 1
            raise

    def wrote(self, waited_s: float, took_s: float) -> None:
        """SQLite 的热路的一个事务。"""
        self.waits.record(waited_s)
        self.statements.record(took_s)

    def before(self, *event_arguments: Any) -> None:
        """引擎的 ``before_cursor_execute``。"""
        event_arguments[4]._meeting_push_began = time.perf_counter()

    def after(self, *event_arguments: Any) -> None:
        """引擎的 ``after_cursor_execute``。"""
        self.statements.record(time.perf_counter() - event_arguments[4]._meeting_push_began)


class Database:
    """一个进程一个；构造不连接。``timeout_s`` 是等连接、等锁、等一条语句的上限。

    ``wanted``：表叫什么；没有说的，第一次看表结构时才知道（``naming``）。

    :raises ConfigurationError: ``url`` 不是可用的 SQLite 文件或 PostgreSQL 地址；名字不行
    """

    def __init__(self, url: str, timeout_s: float = 10.0, wanted: Wanted = UNSAID) -> None:
        self._url = async_url(url)
        self._timeout_s = timeout_s
        self.is_sqlite: Final = self._url.get_backend_name() == "sqlite"
        wanted.check(sqlite=self.is_sqlite)
        self._wanted = wanted
        self.naming = wanted.naming()
        self._looked = False
        #: 中间有按事务复用连接的池；``meet_pooler`` 问过才知道，URL 也可以说。
        self.behind_a_pooler = not self.is_sqlite and asks_for_it(asyncpg_url(self._url)[1])
        self.figures = DatabaseFigures()
        #: 出门的事件：各仓库与它们说的事写在一个事务里。
        self.events = EventOutbox(is_sqlite=self.is_sqlite)
        self._engine = self._watched(
            create_engine(self._url, timeout_s, pooled=self.behind_a_pooler)
        )
        # SQLite 同时只容一个写者：本进程内排队，免得在 busy_timeout 里睡着互抢。
        self._turn: AbstractAsyncContextManager[None] = (
            WriteTurn(timeout_s) if self.is_sqlite else nullcontext()
        )
        #: SQLite 的文件。
        path = self.file = Path(self._url.database or "")
        self._file = SqliteFile(path) if self.is_sqlite else None
        self._writer = (
            SqliteWriter(path, timeout_s, self._check_file, self._turn, self.figures.wrote)
            if self.is_sqlite
            else None
        )
        self._reader = SqliteReader(path, timeout_s) if self.is_sqlite else None
        self._autocommit = self._reading_engine()

    @classmethod
    def of(cls, url: str, settings: DatabaseSettings) -> Self:
        wanted = Wanted(settings.table_prefix, settings.schema_name)
        return cls(url, settings.timeout_s, wanted)

    def _watched(self, engine: AsyncEngine) -> AsyncEngine:
        event.listen(engine.sync_engine, "before_cursor_execute", self.figures.before)
        event.listen(engine.sync_engine, "after_cursor_execute", self.figures.after)
        return self._named(engine)

    def _named(self, engine: AsyncEngine) -> AsyncEngine:
        if not self.naming.is_default:
            event.listen(
                engine.sync_engine, "before_cursor_execute", self.naming.before, retval=True
            )
        return engine

    async def _look(self) -> None:
        """表叫什么，看一次。

        :raises ConfigurationError: 见 ``find_naming``
        """
        if not self._looked:
            async with self.connect() as connection:
                await connection.run_sync(self.look_on)

    def look_on(self, connection: Connection) -> None:
        """同上，在这条连接上看；看过了就不再看。"""
        if self._looked:
            return
        found = find_naming(connection, self._wanted)
        self._looked = True
        if found != self.naming:
            self.naming = found
            self._named(self._engine)

    def pool(self) -> tuple[int, int]:
        """在用的、闲着的连接。"""
        pool = cast(QueuePool, self._engine.sync_engine.pool)
        return pool.checkedout(), pool.checkedin()

    def _reading_engine(self) -> AsyncEngine:
        # SQLite 的连接本就自动提交；PostgreSQL 上省去读语句前后的 BEGIN 与 ROLLBACK。有池则不能省。
        if self.is_sqlite or self.behind_a_pooler:
            return self._engine
        return self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def meet_pooler(self) -> None:
        """看看中间有没有按事务复用连接的池，有就换一种说法；在别的使用之前。

        :raises DatabaseUnavailableError: 连不上
        """
        if self.is_sqlite or self.behind_a_pooler:
            return
        engine = create_engine(self._url, self._timeout_s, pooled=True)
        try:
            with converted_failures():
                self.behind_a_pooler = await is_behind_one(engine)
        except BaseException:
            await engine.dispose()
            raise
        if not self.behind_a_pooler:
            await engine.dispose()
            return
        logger.info("database_behind_a_pooler")
        await self._engine.dispose()
        self._engine = self._watched(engine)
        self._autocommit = self._reading_engine()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """一个写事务：正常离开即提交，抛出（含取消）即回滚。不可嵌套。

        提交途中被取消时结果不定（可能已提交），所以写入都应当幂等。

        :raises OutcomeUnknownError: 提交发出去了而没有回答：可能已提交
        :raises DatabaseUnavailableError: 连不上、超时、被锁；没有提交
        :raises InvalidInputError: 值不可存（NUL、孤立代理项、超范围）
        """
        began = time.perf_counter()
        with uncertain_commit() as commit, self.figures.converted():
            self._check_file()
            async with self._turn, self._engine.begin() as connection:
                self.figures.waits.record(time.perf_counter() - began)
                if self.is_sqlite:
                    # 一开始就取写锁：先读后写再升级会死锁，而 busy_timeout 对它无效。
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                commit.sent = True

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AsyncConnection]:
        """同 ``transaction``，只执行一条语句：PostgreSQL 上它自成事务，省去两个往返。"""
        if self.is_sqlite or self.behind_a_pooler:
            async with self.transaction() as connection:
                yield connection
            return
        with uncertain_commit() as commit:
            async with self.connect() as connection:
                commit.sent = True
                yield connection

    async def write_sqlite(
        self, statements: Sequence[Statement], at_least: int = 0, *, patient: bool = False
    ) -> list[int]:
        """SQLite 的热路：见 ``SqliteWriter.write``；错误同 ``transaction``。"""
        assert self._writer is not None, "SQLite only"
        named, commit = self.naming.statements(statements), Commit()
        try:
            return await self._writer.write(named, commit, at_least, patient=patient)
        except Exception:  # 常态不经这几层
            with uncertain_commit(commit), self.figures.converted():
                raise

    async def read_sqlite(self, statement: Statement) -> list[tuple[Any, ...]]:
        """SQLite 的热路：一条短的查询；错误同 ``connect``。"""
        assert self._reader is not None, "SQLite only"
        began = time.perf_counter()
        with self.figures.converted():
            self._check_file()
            [named] = self.naming.statements([statement])
            found = await self._reader.rows(named)
            self.figures.statements.record(time.perf_counter() - began)
            return found

    async def shrink_sqlite(self, pages: int) -> None:
        """见 ``give_back_pages``；错误同 ``transaction``。"""
        with self.figures.converted():
            self._check_file()
            async with self._turn:
                await asyncio.to_thread(give_back_pages, self.file, self._timeout_s, pages)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """自动提交的连接，供读取；每条语句看到各自的快照。错误同 ``transaction``。"""
        began = time.perf_counter()
        with self.figures.converted():
            self._check_file()
            async with self._autocommit.connect() as connection:
                self.figures.waits.record(time.perf_counter() - began)
                yield connection

    async def rows(
        self, statement: Executable, given: Mapping[str, object] | None = None
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """一条查询的各行。"""
        async with self.connect() as connection:
            return (await connection.execute(statement, given)).all()

    async def row(
        self, statement: Executable, given: Mapping[str, object] | None = None
    ) -> Row[*tuple[Any, ...]] | None:
        """至多一行的查询。"""
        async with self.connect() as connection:
            return (await connection.execute(statement, given)).one_or_none()

    async def scalar(self, statement: Executable, given: Mapping[str, object] | None = None) -> Any:
        """至多一行、一列的查询。"""
        async with self.connect() as connection:
            return await connection.scalar(statement, given)

    async def change(self, statement: Executable, given: Mapping[str, object] | None = None) -> int:
        """一条语句，自成一个事务；返回改了几行。"""
        async with self.alone() as connection:
            return (await connection.execute(statement, given)).rowcount

    async def ping(self) -> None:
        """:raises DatabaseUnavailableError: 现在不能回答"""
        await self.scalar(text("SELECT 1"))

    async def time_ms(self) -> int | None:
        """服务器的钟；SQLite 用的就是我们的，None。"""
        if self.is_sqlite:
            return None
        return int(await self.scalar(_PG_TIME) or 0)

    async def schema_version(self) -> str | None:
        """迁移到了哪一份；空库 None。"""
        await self._look()
        async with self.connect() as connection:
            return await connection.run_sync(version_of, self.naming)

    async def needs_migration(self) -> bool:
        """表结构是否还不是最新的；空库也算。"""
        await self._look()
        async with self.connect() as connection:
            return not await connection.run_sync(is_current, self.naming)

    async def check_schema(self) -> None:
        """:raises ConfigurationError: 库的版本不是我们能用、能升级的"""
        await self._look()
        async with self.connect() as connection:
            await connection.run_sync(pending, self.naming)

    async def migrate(self) -> None:
        """把表结构带到最新；几个进程同时调用是安全的，无事可做时只有一次查询。

        :raises DatabaseUnavailableError: 连不上，或等别的进程迁移超过 10 分钟
        :raises ConfigurationError: 库的版本比程序新
        """
        await self.meet_pooler()
        with converted_failures():
            self._make_directory()
            if await self.needs_migration():
                async with self._migrating() as engine:
                    await migrate(engine, self.naming, MIGRATION_TIMEOUT_S)
            if self.naming == BARE:
                logger.info("tables_have_no_prefix")
        if self._file is not None:
            self._file.remember()

    async def downgrade(self, revision: str) -> None:
        """把表结构退回 ``revision``，给更旧的程序；多出来的列与表连同数据都没有了。

        :raises ConfigurationError: 没有这个版本
        """
        with converted_failures():
            await self._look()
            async with self._migrating() as engine:
                await downgrade(engine, self.naming, revision, MIGRATION_TIMEOUT_S)

    async def upgrade_script(self, since: str | None) -> str:
        """``migrate`` 会执行的 SQL；``since``：从这一份起（``base``：空库），None：从此刻的。

        :raises ConfigurationError: 没有这一份
        """
        current = await self.schema_version() if since is None else since
        return script_of(self._url.get_backend_name(), self.naming, current)

    async def rename(self, prefix: str, schema: str | None) -> None:
        """叫 ``prefix``、在 ``schema`` 里的，改成设置里说的名字。

        :raises ConfigurationError: 见 ``renaming.rename``
        """
        old = Wanted(prefix, schema)
        old.check(sqlite=self.is_sqlite)
        with converted_failures():
            async with self._migrating(named=False) as engine:
                await rename(engine, old.naming(), self._wanted.naming(), MIGRATION_TIMEOUT_S)

    @asynccontextmanager
    async def _migrating(self, *, named: bool = True) -> AsyncIterator[AsyncEngine]:
        """迁移可以很久，不受平时的语句时限约束，所以另用一个引擎。"""
        engine = create_engine(self._url, MIGRATION_TIMEOUT_S, pooled=self.behind_a_pooler)
        try:
            yield self._named(engine) if named else engine
        finally:
            await engine.dispose()

    async def dispose(self) -> None:
        """关闭所有连接；此后的使用会重新连接。"""
        for beside in (self._writer, self._reader):
            if beside is not None:
                await beside.close()
        await self._engine.dispose()

    def _check_file(self) -> None:
        if self._file is not None and self._writer is not None:
            self._file.check(wal_open=self._writer.connected)

    def _make_directory(self) -> None:
        if self.is_sqlite and self._url.database is not None:
            path = Path(self._url.database)
            private_folder(path.parent)
            private_file(path)  # SQLite 造的 -wal、-shm 权限与它相同
            for beside in ("-wal", "-shm"):
                keep_private(path.with_name(path.name + beside))


class Repository:
    """一样记录的读写；收 ``connection`` 的方法在调用者的事务里执行。"""

    def __init__(self, database: Database) -> None:
        self._database = database
