"""日志的出口：我们自己的进程写到 stderr 的样子，一行文字或一个平的 JSON 对象。

哪个库的都从这里走：标准库的日志（uvicorn、picows、alembic）并入 loguru，再由这里写出。出口对每一种
事件还有一道节制：谁也不能用日志灌满磁盘。内嵌进别人的应用时由应用决定，不用这里的。
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import loguru

from .logs import (
    BROKEN_LINES,
    EVERY_S,
    LIBRARY,
    MANY,
    Outlet,
    Turns,
    carried,
    count,
    line,
    plain_json,
    redact,
    shown,
    traceback_of,
)

if TYPE_CHECKING:
    from loguru import Message, Record

_log: Final = loguru.logger

#: 这么多种各有各的节制，再多的合用一个。
_MAX_KINDS: Final = 256
#: 值不论是什么都不写的字段。
_SECRET_NAMES: Final = frozenset({"token", "ticket", "password", "secret", "authorization"})
#: 头里的字段，次序就是写出的次序；别的在后面。
_FIRST: Final = ("request_id", "message_id", "user_id", "connection_id")

#: uvicorn 记为 ERROR（有的还带回溯），其实是客户端的事，谁都能从外面制造：降为 DEBUG。
_CLIENT_FAULTS: Final = frozenset(
    {
        "Invalid UTF-8 sequence received from client.",
        "ASGI callable returned without completing handshake.",  # 升级途中客户端走了
    }
)
#: 是哪个进程说的：``node``、``role``。
_process: dict[str, str] = {}


def introduce(**fields: str) -> None:
    """此后每个 JSON 对象都有这些字段；一个进程一次。"""
    _process.update(fields)


class _ToLoguru(logging.Handler):
    """标准库日志 → loguru。"""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in _CLIENT_FAULTS:
            record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
        level = _level(record)
        count(LIBRARY, level if isinstance(level, str) else "INFO")
        fields = {**carried(), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = traceback_of(record.exc_info[1])
        _log.bind(**fields).log(level, "{}", record.getMessage())


def _level(record: logging.LogRecord) -> str | int:
    try:
        return _log.level(record.levelname).name
    except ValueError:
        return record.levelno


class _Kind(NamedTuple):
    """``field`` 是 ``event`` 或 ``logger``，``name`` 是它的值。"""

    field: str
    name: str
    level: str
    broken: bool


def _kind(record: Record) -> _Kind:
    """我们的事件名就是种类；库的按它的名字，消息的文字没有尽头。"""
    extra = record["extra"]
    field = "event" if "event" in extra else "logger"
    broken = "traceback" in extra or record["exception"] is not None
    name = str(extra.get(field, record["name"]))
    return _Kind(field, name, record["level"].name, broken)


class _Moderation:
    """出口上的过滤器：每一种事件一个窗口里至多 ``MANY`` 行，带回溯的更少（A14）。调试时不管。"""

    def __init__(self) -> None:
        self._kinds: dict[_Kind, Turns] = {}

    def __call__(self, record: Record) -> bool:
        if record["level"].no < logging.INFO or "repeated" in record["extra"]:
            return True
        return self._turns(_kind(record)).take()

    def _turns(self, kind: _Kind) -> Turns:
        if kind not in self._kinds:
            if len(self._kinds) >= _MAX_KINDS:
                kind = kind._replace(field="logger", name="others")
            self._kinds.setdefault(kind, _turns_of(kind))
        return self._kinds[kind]


def _turns_of(kind: _Kind) -> Turns:
    def sum_up() -> None:
        said = {kind.field: kind.name, "repeated": turns.unsaid()}
        _log.bind(**said).log(kind.level, "{}", kind.name)

    turns = Turns(EVERY_S, BROKEN_LINES if kind.broken else MANY, sum_up)
    return turns


# ── 两种样子 ─────────────────────────────────────────────────────────────────


def _traceback(record: Record, extra: dict[str, Any]) -> str:
    """从 ``extra`` 里取走；直接用 loguru 说话的库，异常在 ``record`` 里。"""
    exception = record["exception"]
    said = str(extra.pop("traceback", ""))
    if said or exception is None or exception.value is None:
        return said
    return traceback_of(exception.value)


def _text(record: Record) -> str:
    extra = dict(record["extra"])
    extra.pop("event", None)
    traceback = _traceback(record, extra)
    shown = {name: "***" if name in _SECRET_NAMES else value for name, value in extra.items()}
    head = f"{record['time']:YYYY-MM-DDTHH:mm:ss.SSSZ} {record['level'].name: <7}"
    return line(f"{head} {record['message']}", shown, traceback)


def _flat(record: Record) -> dict[str, object]:
    """没有一层套一层的：收日志的各家都认得。"""
    extra = dict(record["extra"])
    at = record["time"].astimezone(UTC).isoformat(timespec="milliseconds")
    flat: dict[str, object] = {
        "ts": at.removesuffix("+00:00") + "Z",
        "level": record["level"].name,
        "event": extra.pop("event", LIBRARY),
    }
    if flat["event"] == LIBRARY:
        name = extra.pop("logger", record["name"])
        flat |= {"logger": str(name), "text": redact(record["message"])}
    flat |= _process
    traceback = _traceback(record, extra)
    ordered = {name: extra[name] for name in _FIRST if name in extra} | extra
    flat |= {name: _scalar(name, value) for name, value in ordered.items() if name not in flat}
    if traceback:
        flat["traceback"] = redact(traceback)
    return flat


def _scalar(name: str, value: object) -> object:
    if name in _SECRET_NAMES:
        return "***"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    return redact(shown(value))


def _write_text(message: Message) -> None:
    """最后一道：整行（连同异常文字）都过一遍，哪个库写的都一样。"""
    sys.stderr.write(_text(message.record) + "\n")


def _write_json(message: Message) -> None:
    text = json.dumps(_flat(message.record), ensure_ascii=False)
    sys.stderr.write(plain_json(text) + "\n")


def configure_logging(level: str, *, as_json: bool) -> None:
    """进程启动时调用一次；内嵌进别的应用时由应用决定，不调用它。"""
    _log.remove()
    Outlet.ours = True
    _log.add(
        _write_json if as_json else _write_text,
        level=level,
        filter=_Moderation(),
        format="",  # 样子由我们写
        backtrace=False,
        diagnose=False,  # 回溯里不展开变量的值，它们可能是令牌
    )
    # 数字：标准库不认识 TRACE
    logging.basicConfig(handlers=[_ToLoguru()], level=_log.level(level).no, force=True)
    for name in ("picows", "aiosqlite", "asyncio", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
