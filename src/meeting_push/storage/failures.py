"""驱动与 SQLAlchemy 的异常 → 我们的错误树；只由 ``Database`` 使用。"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import DatabaseUnavailableError, InvalidInputError, MeetingPushError

# SQLite 主结果码：PERM BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN PROTOCOL。
_SQLITE_UNAVAILABLE: Final = frozenset({3, 5, 6, 7, 8, 9, 10, 13, 14, 15})
# SQLSTATE 的类：08 连接、28 登录被拒、3D 库不存在、40 死锁与串行化、53 资源不足、
# 55 对象被占、57 管理员干预（重启、取消）、58 系统错误。
_PG_UNAVAILABLE: Final = frozenset({"08", "28", "3D", "40", "53", "55", "57", "58"})
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
        OSError,
        UnicodeEncodeError,
        OverflowError,
    ) as error:
        converted = _convert(error)
        if converted is None:
            raise
        raise converted from error


def _convert(error: Exception) -> MeetingPushError | None:
    if isinstance(error, (UnicodeEncodeError, OverflowError)):
        return _bad_data()
    if isinstance(error, sqlite3.Error):
        return _convert_refusal(error)
    if isinstance(error, DBAPIError) and not error.connection_invalidated:
        return _convert_refusal(error.orig)
    return DatabaseUnavailableError(f"the database is unavailable: {type(error).__name__}")


def _convert_refusal(cause: BaseException | None) -> MeetingPushError | None:
    """连接还在，数据库（或驱动）拒绝了这一句。"""
    if _is_bad_data(cause):
        return _bad_data()
    sqlite_code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    sqlstate = getattr(cause, "sqlstate", None) or ""
    if sqlite_code in _SQLITE_UNAVAILABLE or sqlstate[:2] in _PG_UNAVAILABLE:
        return DatabaseUnavailableError(
            f"the database refused for now: {sqlstate or f'sqlite {sqlite_code}'}"
        )
    return None


def _is_bad_data(cause: BaseException | None) -> bool:
    if (getattr(cause, "sqlstate", None) or "").startswith(_PG_BAD_DATA):
        return True
    # asyncpg 在客户端就拒绝的参数：它的 DataError 兼为 ValueError，没有 SQLSTATE。
    return isinstance(getattr(cause, "orig", None), ValueError)


def _bad_data() -> InvalidInputError:
    return InvalidInputError("a value can not be stored (NUL, lone surrogate or out of range)")
