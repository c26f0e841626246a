"""一条到 Redis 的裸连接：合并写、发现沉默、断开时通知；错误的回答 → 我们的错误树。"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final, cast

import hiredis

from ..errors import MeetingPushError, RedisCommandError, RedisUnavailableError


class ScriptMissingError(RedisCommandError):
    """NOSCRIPT：脚本缓存里没有（重启、切换、SCRIPT FLUSH）；``Script`` 自己会重发。"""


class GroupExistsError(RedisCommandError):
    """BUSYGROUP：消费组早已有了。"""


class ElsewhereError(RedisCommandError):
    """ELSEWHERE：一段脚本一次做几个槽的，有一个槽不在（正在搬）；什么都没执行，见 ``here.lua``。"""


class NoGroupError(RedisCommandError):
    """NOGROUP：消费组（或它的流）还没有，或没有了（FLUSHALL、切换）。"""


class RedirectedError(RedisUnavailableError):
    """MOVED、ASK：这个槽在别处；什么都没有执行，到那里就好。``asking``：正在搬，只这一次到那里去。

    ``host`` 空：还是问的那台主机。
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, cause="moved")
        code, slot, where = message.split(" ")[:3]
        self.asking = code == "ASK"
        self.slot = int(slot)
        self.host, _, port = where.rpartition(":")
        self.port = int(port)


class TryAgainError(RedisUnavailableError):
    """TRYAGAIN：这个槽正在搬，几个键一半在这里；什么都没有执行，搬完就好。"""


class DemotedError(RedisUnavailableError):
    """READONLY、MASTERDOWN、LOADING：连着的已不是（还不是）主；留着只会一直被拒绝，要重新拨号。"""


class ForbiddenByAclError(RedisUnavailableError):
    """NOPERM：这个 Redis 用户少一项权限，``message`` 说是哪一项；补上权限就好，所以是暂时的。"""


#: 稍后可能成功的回答 → 原因。UNBLOCKED：阻塞着读的流被删了（清空、切换），再读就是了。
#: MISCONF：写不了磁盘（AOF、快照），于是拒绝一切写入。
_TEMPORARY: Final = {
    "BUSY": "busy",
    "OOM": "oom",
    "MISCONF": "disk_full",
    "CLUSTERDOWN": "cluster_down",
    "NOREPLICAS": "no_replicas",
    "UNBLOCKED": "unblocked",
    "NOAUTH": "noauth",
    "WRONGPASS": "noauth",
}
#: 同上，但要换一条连接：主降为副本、副本与主失联、副本从头同步。
_DEMOTED: Final = {"READONLY": "readonly", "MASTERDOWN": "master_down", "LOADING": "loading"}
#: 认得出的拒绝；别的都是 ``RedisCommandError``。
_REFUSED: Final[dict[str, type[RedisCommandError]]] = {
    "NOSCRIPT": ScriptMissingError,
    "BUSYGROUP": GroupExistsError,
    "ELSEWHERE": ElsewhereError,
    "NOGROUP": NoGroupError,
}
#: Redis 6.2 把脚本里的错误包成 “ERR Error running script … : -OOM …”，真正的代号在里面。
_INSIDE_SCRIPT: Final = re.compile(r": -([A-Z]+) ")
#: 没有代号的拒绝。脚本里没有权限，Redis 7.0 只说 “ERR The user executing the script can't …”。
_WITHOUT_CODE: Final = (
    ("ERR The user executing the script can't ", "NOPERM"),
    ("ERR max number of clients reached", "MAXCLIENTS"),
    ("ERR no such key", "NOGROUP"),  # XINFO
)
#: “ERR unknown command …, with args beginning with: …” 会回显参数（可能是消息正文）。
_ECHO: Final = ", with args beginning with"


def error_from_reply(text: str) -> MeetingPushError:
    """hiredis 的 ``replyError``；Redis 的错误只在这里按文字分辨，此后都看它的类。"""
    message = text.partition(_ECHO)[0]
    code = _code(message)
    if code in _DEMOTED:
        return DemotedError(message, cause=_DEMOTED[code])
    if code == "NOPERM":
        return ForbiddenByAclError(message, cause="noperm")
    if code == "MAXCLIENTS":
        return RedisUnavailableError(message, cause="too_many_clients")
    if code in ("MOVED", "ASK"):
        return RedirectedError(message)
    if code == "TRYAGAIN":
        return TryAgainError(message, cause="cluster_down")
    if code in _TEMPORARY:
        return RedisUnavailableError(message, cause=_TEMPORARY[code])
    return _REFUSED.get(code, RedisCommandError)(message)


def _code(message: str) -> str:
    inside = _INSIDE_SCRIPT.search(message)
    if inside:
        return inside[1]
    for beginning, code in _WITHOUT_CODE:
        if message.startswith(beginning):
            return code
    return message.partition(" ")[0]


Argument = bytes | str | int | float
#: 一条命令与它的参数。
Command = Sequence[Argument]
#: 沉默满这么多个半周期才算对方死了。事件循环自己卡住时，uvloop 先跑定时器后读数据，
#: 所以一次到点不能当真，还要给它读到积压数据的机会。
SILENT_TICKS: Final = 3


#: 一条命令（元组）的 RESP 字节；存根里没有它收的几种。
pack_one: Final = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)


def pack(*args: Argument) -> bytes:
    """一条命令的 RESP 字节。"""
    return pack_one(args)


class Link(asyncio.Protocol):
    """子类提供 ``data_received``、``expecting``、``fail``。

    ``on_lost`` 在连接断开后调用一次（同步）；``timeout_s`` 内对方对我们的话毫无反应
    （实际在 1–1.5 倍之间发现）就断开。
    """

    def __init__(self, on_lost: Callable[[Link], None], timeout_s: float) -> None:
        self._on_lost = on_lost
        self._tick_s = timeout_s / 2
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=error_from_reply)
        self._transport: asyncio.Transport | None = None
        #: uvloop 自己把一轮里的写合成一次，再等一轮是白等；别的循环、TLS（一次写一个记录）没有。
        self._write_now: Callable[[bytes], None] | None = None
        self._out: list[bytes] = []
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None
        self.lost = False
        #: 为什么断的，一个词；对方断的是 ``unreachable``。
        self.cause = "unreachable"

    # ── 子类的部分 ───────────────────────────────────────────────────────────

    def expecting(self) -> bool:
        """此刻是否有话等着对方回答。"""
        raise NotImplementedError

    def fail(self, error: MeetingPushError) -> None:
        """连接没了：了结所有等待者。"""
        raise NotImplementedError

    # ── 写 ──────────────────────────────────────────────────────────────────

    def write(self, packed: bytes) -> None:
        """本轮事件循环末尾的一次写；同一轮里的都合成一个系统调用。"""
        if self._write_now is not None:
            self._write_now(packed)
        else:
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out.append(packed)
        if self._timer is None:
            self._silent = 0
            self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(out))

    # ── 沉默 ────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        self._timer = None
        if not self.expecting():
            return
        self._silent += 1
        if self._silent >= SILENT_TICKS:
            self.abort("timeout")
            return
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    # ── 生与死 ───────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        plain = transport.get_extra_info("ssl_object") is None
        if plain and not self._out and type(self._loop).__module__.startswith("uvloop"):
            self._write_now = self._transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._write_now = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.fail(RedisUnavailableError("the connection to Redis was lost", cause=self.cause))
        self._on_lost(self)

    def abort(self, cause: str) -> None:
        """立刻断开，不等已写的发完；``cause`` 是一个词的原因，断开的人（``Reconnector``）会说。"""
        if self._transport is not None and not self._transport.is_closing():
            self.cause = cause
            self._transport.abort()

    def close(self) -> None:
        """我们自己要关：写出已排队的，了结等待者，断开。"""
        if self._transport is not None:
            self._flush()
            self.fail(RedisUnavailableError("the connection to Redis was closed"))
            self._transport.abort()  # close() 会等一个不再读的对方
