"""关闭码。区间即含义：4000–4499 退避后可重连，4500–4999 不可。"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from ..model import FailureCause


class CloseCode(IntEnum):
    """服务器关闭用户连接时用的全部码；名字就是 close reason。

    1002、1007、1009 例外：多半由 WebSocket 库一读到就关闭，原因是库写的。
    """

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_UTF8 = 1007
    MESSAGE_TOO_BIG = 1009
    SERVER_DRAINING = 4000
    SLOW_CONSUMER = 4001
    HEARTBEAT_TIMEOUT = 4003
    TOKEN_EXPIRED = 4004
    RATE_LIMITED = 4005
    TOO_MANY_CONNECTIONS = 4006
    NODE_UNHEALTHY = 4007
    INVALID_TOKEN = 4500
    FORBIDDEN = 4501
    REVOKED = 4502
    KICKED = 4503
    PROTOCOL_VIOLATION = 4504
    REPLACED = 4505

    @property
    def reason(self) -> str:
        return self.name.lower()


#: RFC 6455 7.4.1 与 IANA 的登记里，可以出现在关闭帧里的；1004、1005、1006、1015 不可以。
_REGISTERED: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


def may_be_received(code: int) -> bool:
    """对方的关闭帧里可以是它；3000–3999 归登记的库，4000–4999 归应用。"""
    return code in _REGISTERED or 3000 <= code <= 4999


def may_reconnect(code: int) -> bool:
    """客户端收到 ``code`` 后能否重连；4000 以下（1000、1006、1012 …）是网络与代理的事，可以。"""
    return not 4500 <= code <= 4999


class Ending(StrEnum):
    """一条连接怎样结束的，每条一个：谁先说的算。"""

    #: 对方以 1000，或以没有码的关闭帧。
    NORMAL = "normal"
    #: 对方以 1001：关了页面、退出了应用。
    GOING_AWAY = "going_away"
    #: 对方以别的码。
    ABNORMAL = "abnormal"
    #: 没有关闭帧，传输断了。
    ABRUPT = "abrupt"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    #: 我们有意的：办完了、排空、令牌过期、不要他再来（1000、4000、4004、45xx）。
    OURS_ON_PURPOSE = "ours_on_purpose"
    OURS_OTHER = "ours_other"

    @property
    def is_abnormal(self) -> bool:
        """不是 1000、1001，也不是我们有意的。"""
        return self not in _ORDERLY


_ORDERLY: Final = frozenset({Ending.NORMAL, Ending.GOING_AWAY, Ending.OURS_ON_PURPOSE})
_ON_PURPOSE: Final = frozenset(
    {CloseCode.NORMAL, CloseCode.SERVER_DRAINING, CloseCode.TOKEN_EXPIRED}
)


def ended_by_us(code: int) -> Ending:
    """我们以 ``code`` 关闭。"""
    if code == CloseCode.HEARTBEAT_TIMEOUT:
        return Ending.HEARTBEAT_TIMEOUT
    if code in _ON_PURPOSE or not may_reconnect(code):
        return Ending.OURS_ON_PURPOSE
    return Ending.OURS_OTHER


def ended_by_peer(code: int | None) -> Ending:
    """对方先走：它的关闭帧里的码；没有码（1005）None 也算说了再见，1006 是没有关闭帧。"""
    if code in (None, 1000, 1005):
        return Ending.NORMAL
    if code == 1001:
        return Ending.GOING_AWAY
    return Ending.ABRUPT if code == 1006 else Ending.ABNORMAL


_TOKEN: Final = frozenset(
    {
        *(CloseCode.TOKEN_EXPIRED, CloseCode.INVALID_TOKEN),
        *(CloseCode.FORBIDDEN, CloseCode.REVOKED),
    }
)
#: 他发来的我们不能要，或他读得太慢。
_FAULTY: Final = frozenset(
    {
        *(CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_UTF8, CloseCode.MESSAGE_TOO_BIG),
        *(CloseCode.SLOW_CONSUMER, CloseCode.RATE_LIMITED, CloseCode.PROTOCOL_VIOLATION),
    }
)


def cause_of_leaving(ending: Ending | None, code: int | None) -> FailureCause | None:
    """一条连接怎样没有的，说明了他为什么收不到；自己走的、被请走的不说明什么。

    ``code`` 是我们关闭它用的码；``ending`` 为 None 是没有人说再见。
    """
    if ending in (None, Ending.ABRUPT, Ending.HEARTBEAT_TIMEOUT):
        return FailureCause.NETWORK
    if code in _TOKEN:
        return FailureCause.AUTHENTICATION
    if ending is Ending.ABNORMAL or code in _FAULTY:
        return FailureCause.CLIENT
    return None
