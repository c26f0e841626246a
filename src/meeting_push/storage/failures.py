"""驱动与 SQLAlchemy 的异常 → 我们的错误树；只由 ``Database`` 使用。"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import (
    DatabaseUnavailableError,
    InvalidInputError,
    MeetingPushError,
    OutcomeUnknownError,
)

#: SQLite 主结果码 → 原因。
_SQLITE: Final = {
    3: "noperm",  # PERM
    5: "locked",  # BUSY
    6: "locked",  # LOCKED
    7: "out_of_memory",
    8: "readonly",
    9: "timeout",  # INTERRUPT
    10: "io_error",
    11: "corrupt",
    13: "disk_full",
    14: "cannot_open",
    15: "locked",  # PROTOCOL：抢锁的次序出了岔子
    23: "noperm",  # AUTH
    26: "corrupt",  # NOTADB
}
#: SQLSTATE → 原因，按类（前两位）分，有更准的就按整个：类里新添的、别的版本特有的也在其中。
_SQLSTATE: Final = {
    "08": "unreachable",
    "0A": "pooled",  # 缓存的计划失效：表结构刚变过，或池换了后面的连接
    "25": "readonly",  # 25006；事务在别处被切断的也在这一类
    "26": "pooled",  # 预备语句不见了：中间有按事务复用连接的池
    "28": "noperm",
    "3D": "no_database",
    "3F": "no_schema",
    "40": "conflict",  # 死锁、串行化
    "42501": "noperm",
    "42P05": "pooled",
    "53": "out_of_resources",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "too_many_clients",
    "54": "out_of_resources",
    "55": "locked",
    "57": "restarting",
    "57014": "timeout",  # statement_timeout，或有人取消
    "58": "io_error",
    "F0": "io_error",
    "XX": "corrupt",
}
_PG_BAD_DATA: Final = "22"  # 例如字符串里的 NUL，或超出 bigint 的整数


@contextmanager
def converted_failures() -> Iterator[None]:
    """块内只许有 SQL：``OSError``、``TimeoutError`` 也被当作数据库的。

    既不是“连不上、超时、被锁”也不是“值不可存”的异常是程序错误，原样抛出。
    """
    try:
        yield
    except (
        DBAPIError,
        PoolTimeoutError,
        sqlite3.Error,
        EmulatedDBAPIException,
        OSError,
        UnicodeEncodeError,
        OverflowError,
    ) as error:
        converted = _convert(error)
        if converted is None:
            raise
        raise converted from error


class Commit:
    """``sent``：COMMIT 发出去了；此后的失败，不一定是没有存下。"""

    sent = False


@contextmanager
def uncertain_commit(commit: Commit | None = None) -> Iterator[Commit]:
    """套在 ``converted_failures`` 外面：COMMIT 之后的失败，除非数据库明说没有，都是不定。"""
    commit = commit or Commit()
    try:
        yield commit
    except DatabaseUnavailableError as error:
        if commit.sent and not _surely_refused(error.__cause__):
            raise OutcomeUnknownError(cause=error.cause) from error
        raise


#: 对 COMMIT（或自成事务的语句）的这些回答就是“没有提交”；别的 57（关机）等到回答时可能已经提交了。
_REFUSED_CLASSES: Final = frozenset({"22", "23", "25", "40", "42", "53", "54", "55"})
#: 取消、语句超时只在提交之前起作用：提交途中 PostgreSQL 不理会它们（``HOLD_INTERRUPTS``）。
_CANCELLED_STATE: Final = "57014"
_UNKNOWN_STATE: Final = "40003"
#: SQLite 的 BUSY、READONLY、FULL；别的（IOERR …）可能已经写进 WAL。
_REFUSED_CODES: Final = frozenset({5, 8, 13})


def _surely_refused(error: BaseException | None) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return False
    cause = getattr(error, "orig", None) or error
    sqlstate = getattr(cause, "sqlstate", None) or ""
    if sqlstate:
        refused = sqlstate[:2] in _REFUSED_CLASSES or sqlstate == _CANCELLED_STATE
        return refused and sqlstate != _UNKNOWN_STATE
    return (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in _REFUSED_CODES


class LeftBehind:
    """引擎的 ``handle_error``：主库换了地方，旧连接还连着变成只读的那个；丢掉才找得到新的。

    真是只读（没有新的主库）时重拨也没用，所以 ``AGAIN_S`` 之内只丢一次。
    """

    AGAIN_S: Final = 1.0

    def __init__(self) -> None:
        self._dropped_at = float("-inf")

    def __call__(self, context: ExceptionContext) -> None:
        sqlstate = getattr(context.original_exception, "sqlstate", None)
        now = time.monotonic()
        if sqlstate == "25006" and now - self._dropped_at >= self.AGAIN_S:
            self._dropped_at = now
            context.is_disconnect = True


def _convert(error: Exception) -> MeetingPushError | None:
    if isinstance(error, (UnicodeEncodeError, OverflowError)):
        return _bad_data()
    if isinstance(error, sqlite3.Error) or getattr(error, "sqlstate", None):
        # 后一种没有包着：借连接时的探测被数据库拒绝（``statement_timeout``）
        return _convert_refusal(error)
    if isinstance(error, DBAPIError) and not error.connection_invalidated:
        return _convert_refusal(error.orig)
    return DatabaseUnavailableError(
        f"the database is unavailable: {type(error).__name__}", cause=_away(error)
    )


def _away(error: Exception) -> str:
    """连接没有了，或还没有：等不到，还是连不上；连上时被拒的，有它自己的说法。"""
    refusal = _refusal(getattr(error, "orig", None)) or _refusal(error)
    if refusal is not None:
        return refusal
    return "timeout" if isinstance(error, (TimeoutError, PoolTimeoutError)) else "unreachable"


def _convert_refusal(cause: BaseException | None) -> MeetingPushError | None:
    """连接还在，数据库（或驱动）拒绝了这一句。"""
    if _is_bad_data(cause):
        return _bad_data()
    refusal = _refusal(cause)
    if refusal is None:
        return None
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", "")
    return DatabaseUnavailableError(f"the database refuses: {refusal} ({code})", cause=refusal)


def _refusal(cause: object) -> str | None:
    """数据库说的原因；不是“现在不行”的（程序错误）None。"""
    sqlstate = getattr(cause, "sqlstate", None) or ""
    if sqlstate:
        return _SQLSTATE.get(sqlstate) or _SQLSTATE.get(sqlstate[:2])
    return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)


def _is_bad_data(cause: BaseException | None) -> bool:
    if (getattr(cause, "sqlstate", None) or "").startswith(_PG_BAD_DATA):
        return True
    # asyncpg 在客户端就拒绝的参数：它的 DataError 兼为 ValueError，没有 SQLSTATE。
    return isinstance(getattr(cause, "orig", None), ValueError)


def _bad_data() -> InvalidInputError:
    return InvalidInputError("a value can not be stored (NUL, lone surrogate or out of range)")
