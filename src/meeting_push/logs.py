"""日志：怎样说一件事。一件事是一个英文的事件名（全部在 ``log_events.txt``）与几个字段。

各处说话都用这里的 ``logger``，写法同 loguru；出口（去哪里、什么样子）归 ``log_outlet.py``。没有设置
出口的（内嵌进别人的应用）交给 loguru 时，字段与回溯都已写在文字里：它缺省的样子只有 ``{message}``，
而且会把回溯里变量的值印出来，那可能是令牌。

令牌绝不出现（SEC-2）：写出之前涂掉 ``token=``、``ticket=``、``bearer``、JWT、API 密钥，不论谁说的。

一条记录就是一行（LESSONS 28）：控制符写成转义，字段的值加引号，回溯的每一行都缩进；别人给的
文字造不出另一条记录，也碰不到终端。

反复发生的同一件事只隔一阵说几次：依赖不在时、被人攻击时，每秒几百行会把别的都淹掉。别人制造得出的
每一种事件都经 ``RepeatedWarning`` 说；没有说的有数，窗口到头时说出来。别的也有节制，内嵌时也是。

每说一次（没有轮到写的也算）数一次：``counts``。
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar
from importlib.resources import files
from traceback import TracebackException
from typing import Any, Final, NamedTuple

import loguru

from .errors import MeetingPushError

#: 一个窗口：一处依赖不在，各处加起来每分钟仍只有十来行。
EVERY_S: Final = 60.0
#: 每一行都有不同的内容（谁、从哪里）的事件，一个窗口里说这么多行。
MANY: Final = 20
#: 带回溯的，说这么多次。
BROKEN_LINES: Final = 3
#: 一个字段至多这么长。
MAX_FIELD_CHARS: Final = 512
#: 回溯留最里面的这么多：错在那里。
MAX_TRACEBACK_CHARS: Final = 16_384


# ── 文字 ────────────────────────────────────────────────────────────────────

_SECRETS: Final = re.compile(
    r"((?:token|ticket|password|secret)=\"?|bearer[. ]\s*)[^\s&\"',;]+", re.IGNORECASE
)
#: 光秃秃的 JWT：三段 base64url，第一段以 {" 开头；与 API 密钥。截断了的也算：没有点的一段整个吃掉，
#: 一长串 ``eyJ-eyJ-…`` 只看一遍。
_BARE: Final = re.compile(r"\beyJ[\w-]{5,}(?:\.[\w-]*){0,2}|mpk_[\w-]+")
_QUOTED: Final = re.compile(r'[\s"=]')


def redact(text: str) -> str:
    """涂掉一段文字里的令牌。"""
    return _BARE.sub("***", _SECRETS.sub(r"\1***", text))


def plain(text: str) -> str:
    r"""换行、ESC、C1、双向控制符、行分隔符、孤立代理项……写成 ``\n``、``\x1b``、``\u202e``。"""
    return _escaped(text, lambda c: c.encode("unicode_escape").decode("ascii"))


def plain_json(text: str) -> str:
    """一段没有换行的 JSON：控制符只可能在字符串里，换成 JSON 的转义，意思不变。"""
    return _escaped(text, _json_escape)


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else escape(c) for c in text)


def line(head: str, fields: Mapping[str, object], traceback: str = "") -> str:
    """一条记录：一行，回溯的每一行缩进在它下面。"""
    said = "".join(f" {name}={_quoted(value)}" for name, value in fields.items())
    lines = [f"{plain(head)}{said}"]
    lines += [f"    {plain(one)}" for one in traceback.splitlines()]
    return redact("\n".join(lines))


def shown(value: object) -> str:
    """几个的写成一个，逗号隔开：收日志的各家对数组各有各的想法。"""
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(str, value))
    return str(value)


def _quoted(value: object) -> str:
    text = plain(shown(value))
    if _QUOTED.search(text) is None:
        return text
    return '"' + text.replace('"', '\\"') + '"'


def traceback_of(error: BaseException) -> str:
    """回溯，不展开变量的值：它们可能是令牌。"""
    text = "".join(TracebackException.from_exception(error).format())
    return text[-MAX_TRACEBACK_CHARS:]


# ── 数 ──────────────────────────────────────────────────────────────────────


def _vocabulary() -> dict[str, str]:
    text = files("meeting_push").joinpath("log_events.txt").read_text("utf-8")
    rows = (row.split("|") for row in text.splitlines() if row and row[0] not in "#")
    return {name.strip(): level.strip() for name, level, *_ in rows}


def _codes(kind: type[MeetingPushError]) -> set[str]:
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))


#: 事件名 → 它的级别（有两种的以 ``/`` 隔开）；页是 ``docs/logs.md``。
EVENTS: Final[Mapping[str, str]] = _vocabulary()
#: 库里的记录；词表里没有的。
LIBRARY: Final = "library"
OTHER: Final = "other"
_CODES: Final = frozenset(_codes(MeetingPushError))


class Said(NamedTuple):
    """``code`` 是我们的错误码，没有则空。都只有那么多种，可以做标签。"""

    event: str
    level: str
    code: str


#: 这个进程里各说了几次，从 INFO 起；只增。
counts: Final[Counter[Said]] = Counter()
_told: Final[Counter[Said]] = Counter()
_UNCOUNTED: Final = frozenset({"TRACE", "DEBUG"})


def count(event: str, level: str, code: object = None) -> None:
    """说了一次；没有轮到写的也在这里数。"""
    if level not in _UNCOUNTED:
        known = event if event in EVENTS else OTHER
        counts[Said(known, level, code if isinstance(code, str) and code in _CODES else "")] += 1


def untold() -> Counter[Said]:
    """上次问过之后又说了的；一个进程里谁先问到归谁。"""
    fresh = counts - _told
    _told.update(fresh)
    return fresh


# ── 说 ──────────────────────────────────────────────────────────────────────

#: 正在办的事带着的字段（``request_id``）；写的时候才看。
_carried: Final[ContextVar[Mapping[str, object]]] = ContextVar("log_fields")
_NOTHING: Final[Mapping[str, object]] = {}


#: 这个任务从此说的每一句恰有这些字段。
carrying: Final = _carried.set


def carry(**fields: object) -> None:
    """同上，添上。"""
    carrying({**carried(), **fields})


def carried() -> Mapping[str, object]:
    return _carried.get(_NOTHING)


class Outlet:
    """出口是不是我们设置的：不是，就把一切写进文字。"""

    ours = False


class Log:
    """写法同 loguru 的那几样；``exception`` 只给我们自己的错，客户端造成的不该有回溯。"""

    __slots__ = ("_error", "_fields")

    def __init__(
        self, fields: Mapping[str, object] = _NOTHING, error: BaseException | None = None
    ) -> None:
        self._fields = fields
        self._error = error

    def bind(self, **fields: object) -> Log:
        return Log({**self._fields, **fields}, self._error)

    def opt(self, *, exception: BaseException | bool) -> Log:
        """``True``：正在处理的那个。"""
        error = exception if isinstance(exception, BaseException) else sys.exc_info()[1]
        return Log(self._fields, error)

    def debug(self, event: str) -> None:
        self._say("DEBUG", event)

    def info(self, event: str) -> None:
        self._say("INFO", event)

    def warning(self, event: str) -> None:
        self._say("WARNING", event)

    def error(self, event: str) -> None:
        self._say("ERROR", event)

    def _say(self, level: str, event: str) -> None:
        count(event, level, self._fields.get("code"))
        if Outlet.ours or level in _UNCOUNTED or _has_turn(event, level, self._error is not None):
            self.write(level, event, depth=3)

    def write(self, level: str, event: str, depth: int = 2) -> None:
        """已经数过的。``depth``：往上几层是说话的人。"""
        traceback = "" if self._error is None else traceback_of(self._error)
        fields = {**self._fields, **carried()}
        if Outlet.ours:
            extra = {**fields, "traceback": traceback} if traceback else fields
            text = event
        else:  # 字段也给：用 JSON 的应用要它们
            extra = {name: _field(value) for name, value in fields.items()}
            text = line(event, extra, traceback)
        loguru.logger.bind(**{**extra, "event": event}).opt(depth=depth).log(level, text)


def _field(value: Any) -> Any:
    return redact(plain(value[:MAX_FIELD_CHARS])) if isinstance(value, str) else value


logger: Final = Log()


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
                # 不是这一次的事：没有它带着的字段
                self._timer = loop.call_later(delay_s, self._end, context=Context())

    def _end(self) -> None:
        self._timer = None
        if self._unsaid:
            self._since, self._said = self._clock(), 1
            self._sum_up()


#: 内嵌时各种事件的节制，见 ``_has_turn``。
_turns: Final[dict[tuple[str, str, bool], Turns]] = {}


def _has_turn(event: str, level: str, broken: bool) -> bool:
    """应用的出口没有节制（我们自己的有，见 ``log_outlet.py``）：一种事件一个窗口里只说这么多行。"""
    key = event, level, broken
    if key not in _turns:
        _turns[key] = _turns_of(event, level, BROKEN_LINES if broken else MANY)
    return _turns[key].take()


def _turns_of(event: str, level: str, lines: int) -> Turns:
    def sum_up() -> None:
        Log({"repeated": turns.unsaid()}).write(level, event)

    turns = Turns(EVERY_S, lines, sum_up)
    return turns


class RepeatedWarning:
    """一个日志事件；谁反复遇到它，谁留着一个。

    头 ``lines`` 次立即记下；此后直到 ``every_s`` 满了才再记。其间没有记下的次数是下一行的
    ``repeated``；没有下一次，就由窗口的末尾补一行。

    ``context``：每一行都有的字段，补的那一行也有。
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
        count(self._event, self._level, fields.get("code", self._context.get("code")))
        if self._turns.take():
            self._write(exception, fields)

    def _write(self, exception: BaseException | None, fields: dict[str, Any]) -> None:
        given = {**self._context, **fields}
        said = {name: _short(value) for name, value in given.items() if value is not None}
        if repeated := self._turns.unsaid():
            said["repeated"] = repeated
        Log(said, exception).write(self._level, self._event, depth=3)


def _short(value: Any) -> Any:
    return value[:MAX_FIELD_CHARS] if isinstance(value, str) else value
