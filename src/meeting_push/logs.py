"""日志：怎样说一件事。反复的隔一阵说一次，别人给的文字先去掉控制符，哪个库的都从一个出口走。

日志：loguru 为主，标准库的（uvicorn、picows、alembic）并入同一出口。

令牌绝不出现（SEC-2）：写出之前整行涂掉 ``token=``、``ticket=``、``bearer`` 与 JWT，
不论是哪个库打印的（uvicorn 接受 WebSocket 时会打印整条 URL，LESSONS 11）。

一条记录就是一行（LESSONS 28）：控制符写成转义，字段的值加引号，回溯的每一行都缩进；别人给的
文字造不出另一条记录，也碰不到终端。

反复发生的同一件事只隔一阵说几次：依赖不在时、被人攻击时，每秒几百行会把别的都淹掉。

别人制造得出的每一种事件都经这里说（内嵌时也是）；没有说的有数，窗口到头时说出来。我们自己的出口
（``logs.py``）对每一种事件还有同样的节制，谁也不能用日志灌满磁盘。

别人给的文字进日志、进终端之前：控制符写成转义，一行仍是一行（LESSONS 28）。
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loguru import logger

from .settings import ProcessSettings

if TYPE_CHECKING:
    from loguru import Message, Record


#: 一个窗口：一处依赖不在，各处加起来每分钟仍只有十来行。
EVERY_S: Final = 60.0
#: 每一行都有不同的内容（谁、从哪里）的事件，一个窗口里说这么多行。
MANY: Final = 20
#: 一个字段至多这么长。
MAX_FIELD_CHARS: Final = 512


class Turns:
    """一个窗口 ``every_s`` 里 ``lines`` 次；没轮到的有几次，到窗口的末尾告诉 ``sum_up``。

    线程里没有事件循环，就等下一次轮到时由 ``unsaid`` 得知。
    """

    def __init__(
        self,
        every_s: float,
        lines: int,
        sum_up: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._lines = lines
        self._sum_up = sum_up
        self._clock = clock
        self._since = self._seen_at = float("-inf")
        self._said = self._unsaid = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> bool:
        """这一次轮不轮得到。"""
        now = self._clock()
        if now - self._seen_at >= self._every_s:
            self._unsaid = 0  # 停了一阵：又是第一次
        self._seen_at = now
        if now - self._since >= self._every_s:
            self._since, self._said = now, 0
        if self._said < self._lines:
            self._said += 1
            return True
        self._unsaid += 1
        self._wait_for_end(self._since + self._every_s - now)
        return False

    def unsaid(self) -> int:
        """上次问过之后没轮到的次数。"""
        count, self._unsaid = self._unsaid, 0
        return count

    def _wait_for_end(self, delay_s: float) -> None:
        if self._timer is None:
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(delay_s, self._end)

    def _end(self) -> None:
        self._timer = None
        if self._unsaid:
            self._since, self._said = self._clock(), 1
            self._sum_up()


class RepeatedWarning:
    """一个日志事件；谁反复遇到它，谁留着一个。

    头 ``lines`` 次立即记下；此后直到 ``every_s`` 满了才再记。其间没有记下的次数是下一行的
    ``repeated``；没有下一次，就由窗口的末尾补一行。

    ``context``：每一行都有的字段，补的那一行也有。字段在这里就去掉控制符：内嵌时写日志的是应用自己的格式。
    """

    def __init__(
        self,
        event: str,
        *,
        every_s: float = EVERY_S,
        lines: int = 1,
        level: str = "WARNING",
        context: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._event = event
        self._level = level
        self._context = dict(context or {})
        self._turns = Turns(every_s, lines, lambda: self._write(None, {}), clock)

    def say(self, exception: BaseException | None = None, **fields: Any) -> None:
        """``exception`` 连同回溯；只给我们自己的错，客户端造成的不该有回溯。"""
        if self._turns.take():
            self._write(exception, fields)

    def _write(self, exception: BaseException | None, fields: dict[str, Any]) -> None:
        given = {**self._context, **fields}
        said = {name: _field(value) for name, value in given.items() if value is not None}
        if repeated := self._turns.unsaid():
            said["repeated"] = repeated
        log = logger.bind(**said)
        if exception is not None:
            log = log.opt(exception=plain_error(exception))
        log.log(self._level, self._event)


def _field(value: Any) -> Any:
    return plain(value[:MAX_FIELD_CHARS]) if isinstance(value, str) else value


_SECRETS: Final = re.compile(
    r"((?:token|ticket|password|secret)=\"?|bearer[. ]\s*)[^\s&\"',;]+", re.IGNORECASE
)
#: 光秃秃的 JWT：三段 base64url，第一段以 {" 开头。
_JWT: Final = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?")


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


def configure_logging(settings: ProcessSettings) -> None:
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


def plain(text: str) -> str:
    r"""换行、ESC、C1、双向控制符、行分隔符、孤立代理项……写成 ``\n``、``\x1b``、``\u202e``。"""
    return _escaped(text, lambda c: c.encode("unicode_escape").decode("ascii"))


def plain_json(text: str) -> str:
    """一段没有换行的 JSON：控制符只可能在字符串里，换成 JSON 的转义，意思不变。"""
    return _escaped(text, _json_escape)


def plain_error(error: BaseException) -> BaseException:
    """同一个错误，它和它的来由的话都是一行；不必改就是它自己。"""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = None if cause is None else plain_error(cause)
    text = str(error)
    if text.isprintable() and before is cause:
        return error
    kind = type(error)
    copy: BaseException = type(kind.__name__, (Exception,), {"__module__": kind.__module__})(
        plain(text)
    )
    copy.__traceback__, copy.__cause__ = error.__traceback__, before
    return copy


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escape(c) for c in text)


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
