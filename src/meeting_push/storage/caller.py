"""调用者自己的事务：应用交来的，我们的语句在里面执行。

提交、回滚、关闭都是应用的事。它的引擎不是我们的，所以换名字的监听挂在这一条连接上，用完就取下。
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from ..errors import InvalidInputError
from .database import Database
from .failures import converted_failures
from .naming import named

#: 应用交来的：同步的也行（Django 的写法、Celery 的任务）。
SyncTransaction = Connection | Session
CallerTransaction = AsyncConnection | AsyncSession | SyncTransaction
Result = TypeVar("Result")


@asynccontextmanager
async def connection_of(
    caller: CallerTransaction, database: Database
) -> AsyncIterator[AsyncConnection]:
    """在调用者的事务里执行我们的语句；我们从不提交它。

    同步的：有事件循环就在旁边的线程里执行（SQLite 的写锁可能在我们自己的事务手里，它要循环才走得
    完），没有就在原地，没有一处真的等待（``run_here``）。

    :raises InvalidInputError: 它连的不是同一种数据库
    :raises ConfigurationError: 同 ``find_naming``
    :raises DatabaseUnavailableError: 语句没有执行；调用者的事务多半只能回滚
    """
    with converted_failures():
        if isinstance(caller, AsyncSession):
            caller = await caller.connection()
        elif isinstance(caller, Session):
            caller = await _do(caller.connection)
        if (caller.dialect.name == "sqlite") is not database.is_sqlite:
            raise InvalidInputError("the transaction is on another kind of database")
        if isinstance(caller, AsyncConnection):
            await caller.run_sync(database.look_on)
            assert caller.sync_connection is not None, "begun by the caller"
            with named(caller.sync_connection, database.naming):
                yield caller
            return
        await _do(database.look_on, caller)
        with named(caller, database.naming):
            yield cast(AsyncConnection, _Awaited(caller))


class _Awaited:
    """同步的连接，写成要等的样子：仓库只用这几样。"""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Any, values: Any = None) -> Any:
        return await _do(self._connection.execute, statement, values)

    async def exec_driver_sql(self, statement: str, values: Any = None) -> Any:
        return await _do(self._connection.exec_driver_sql, statement, values)


async def _do(work: Callable[..., Result], *given: Any) -> Result:
    if asyncio._get_running_loop() is None:
        return work(*given)
    return await asyncio.to_thread(work, *given)


def ask_here(
    question: Coroutine[Any, Any, Result],
    loop: asyncio.AbstractEventLoop | None,
    database: Database,
) -> Result:
    """在没有事件循环的线程里等一件要问数据库（或应用的名册）的事。

    ``loop`` 在跑（另一个线程里）就在那里问。没有：起一个临时的，问完把连接也关掉，它们只属于它。

    :raises RuntimeError: 这个线程里有事件循环
    """
    if loop is not None and loop.is_running() and asyncio._get_running_loop() is None:
        return asyncio.run_coroutine_threadsafe(question, loop).result()

    async def ask() -> Result:
        try:
            return await question
        finally:
            await database.dispose()

    asking = ask()
    try:
        return asyncio.run(asking)
    finally:
        asking.close()
        question.close()


def run_here(work: Coroutine[Any, Any, Result]) -> Result:
    """在没有事件循环的线程里做完一件从不真的等待的事。"""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(Result, done.value)
    work.close()
    raise AssertionError("it waits: not to be run without an event loop")
