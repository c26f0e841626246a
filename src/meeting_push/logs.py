"""日志：loguru 为主，标准库的（uvicorn、picows、alembic）并入同一出口。

令牌绝不出现（SEC-2）：写出之前整行涂掉 ``token=``、``ticket=``、``bearer`` 与 JWT，
不论是哪个库打印的（uvicorn 接受 WebSocket 时会打印整条 URL，LESSONS 11）。

一条记录就是一行（LESSONS 28）：控制符写成转义，字段的值加引号，回溯的每一行都缩进；别人给的
文字造不出另一条记录，也碰不到终端。
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from loguru import logger

from .plain_text import plain, plain_json
from .repeated_warning import EVERY_S, MANY, Turns
from .settings import Settings

_SECRETS: Final = re.compile(
    r"((?:token|ticket|password|secret)=\"?|bearer[. ]\s*)[^\s&\"',;]+", re.IGNORECASE
)
#: 光秃秃的 JWT：三段 base64url，第一段以 {" 开头。
_JWT: Final = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?")

if TYPE_CHECKING:
    from loguru import Message, Record

#: 带回溯的一种，一个窗口里说这么多次。
_BROKEN_LINES: Final = 3
#: 这么多种各有各的节制，再多的合用一个。
_MAX_KINDS: Final = 256
_QUOTED: Final = re.compile(r'[\s"=]')


def redact(text: str) -> str:
    """涂掉一行文字里的令牌。"""
    return _JWT.sub("***", _SECRETS.sub(r"\1***", text))


#: uvicorn 记为 ERROR（有的还带回溯），其实是客户端的事，谁都能从外面制造：降为 DEBUG。
_CLIENT_FAULTS: Final = frozenset(
    {
        "Invalid UTF-8 sequence received from client.",
        "ASGI callable returned without completing handshake.",  # 升级途中客户端走了
    }
)


class _ToLoguru(logging.Handler):
    """标准库日志 → loguru。"""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in _CLIENT_FAULTS:
            record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
        # 深度 0：调用者是库，它的名字已在 record.name 里
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(
            _level(record), "{}", record.getMessage()
        )


class _Kind(NamedTuple):
    event: str
    level: str
    broken: bool


class _Moderation:
    """出口上的过滤器：每一种事件一个窗口里至多 ``MANY`` 行，带回溯的更少（A14）。

    我们的事件名就是种类；库的按它的名字，消息的文字没有尽头。调试时不管。
    """

    def __init__(self) -> None:
        self._kinds: dict[_Kind, Turns] = {}

    def __call__(self, record: Record) -> bool:
        if record["level"].no < logging.INFO or "repeated" in record["extra"]:
            return True
        event = str(record["extra"].get("logger", record["message"]))
        kind = _Kind(event, record["level"].name, record["exception"] is not None)
        return self._turns(kind).take()

    def _turns(self, kind: _Kind) -> Turns:
        if kind not in self._kinds:
            if len(self._kinds) >= _MAX_KINDS:
                kind = kind._replace(event="others")
            self._kinds.setdefault(kind, _turns_of(kind))
        return self._kinds[kind]


def _turns_of(kind: _Kind) -> Turns:
    def sum_up() -> None:
        logger.bind(repeated=turns.unsaid()).log(kind.level, "{}", kind.event)

    turns = Turns(EVERY_S, _BROKEN_LINES if kind.broken else MANY, sum_up)
    return turns


def _level(record: logging.LogRecord) -> str | int:
    try:
        return logger.level(record.levelname).name
    except ValueError:
        return record.levelno


def _text(message: Message) -> str:
    """``message`` 本身是回溯（``_traceback`` 的格式），没有则空。"""
    record = message.record
    fields = "".join(f" {key}={_value(value)}" for key, value in record["extra"].items())
    head = f"{record['time']:YYYY-MM-DDTHH:mm:ss.SSSZ} {record['level'].name: <7}"
    lines = [f"{head} {plain(record['message'])}{fields}"]
    lines += [f"    {plain(line)}" for line in str(message).splitlines()]
    return "\n".join(lines)


def _value(value: object) -> str:
    text = plain(str(value))
    if _QUOTED.search(text) is None:
        return text
    return '"' + text.replace('"', '\\"') + '"'


_JSON_TEXT: Final = "{time} {level: <7} {message}\n{exception}"


def _traceback(_record: Record) -> str:
    return "{exception}"


def _write_text(message: Message) -> None:
    """最后一道：整行（连同异常文字）都过一遍，哪个库写的都一样。"""
    sys.stderr.write(redact(_text(message)) + "\n")


def _write_json(message: Message) -> None:
    sys.stderr.write(plain_json(redact(str(message).rstrip("\n"))) + "\n")


def configure_logging(settings: Settings) -> None:
    """进程启动时调用一次；内嵌进别的应用时由应用决定，不调用它。"""
    logger.remove()
    level = settings.log_level
    json = settings.log_json
    logger.add(
        _write_json if json else _write_text,
        level=level,
        filter=_Moderation(),
        serialize=json,
        format=_JSON_TEXT if json else _traceback,
        backtrace=False,
        diagnose=False,  # 回溯里不展开变量的值，它们可能是令牌
    )
    # 数字：标准库不认识 TRACE
    logging.basicConfig(handlers=[_ToLoguru()], level=logger.level(level).no, force=True)
    for name in ("picows", "aiosqlite", "asyncio", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
