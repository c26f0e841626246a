"""关闭码。区间即含义：4000–4499 退避后可重连，4500–4999 不可。"""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    """服务器关闭用户连接时用的全部码；名字就是 close reason。

    1009 例外：帧头一读到就由 WebSocket 库关闭，原因是库写的。
    """

    NORMAL = 1000
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


def may_reconnect(code: int) -> bool:
    """客户端收到 ``code`` 后能否重连；4000 以下（1000、1006、1012 …）是网络与代理的事，可以。"""
    return not 4500 <= code <= 4999
