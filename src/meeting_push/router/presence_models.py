"""在线状态的 REST 里来往的 JSON。"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from ..model import ConnectionInfo, PresenceStatus


class OnlineUserOut(BaseModel):
    user_id: int
    connection_count: int
    status: PresenceStatus | None


class OnlineUsersOut(BaseModel):
    items: list[OnlineUserOut]
    next_cursor: str | None


class ConnectionOut(BaseModel):
    """一台设备；时刻为毫秒。``last_heartbeat`` 在很大的节点上可以旧几分钟，不影响在不在线。"""

    connection_id: str
    device_id: str
    device_info: str
    connect_time: int
    last_heartbeat: int
    ip_address: str
    status: PresenceStatus

    @classmethod
    def of(cls, info: ConnectionInfo) -> ConnectionOut:
        return cls(
            connection_id=info.connection_id,
            device_id=info.device_id,
            device_info=info.device_info,
            connect_time=info.connect_time,
            last_heartbeat=info.last_heartbeat,
            ip_address=info.ip_address,
            status=info.status,
        )


class UserPresenceOut(BaseModel):
    user_id: int
    online: bool
    status: PresenceStatus | None = Field(description="几台设备合起来的；离线为 null")
    connection_count: int
    connections: list[ConnectionOut] = Field(description="只给本人与管理员；别人看到空表")

    @classmethod
    def of(
        cls,
        user_id: int,
        status: PresenceStatus | None,
        connections: Sequence[ConnectionInfo],
        *,
        details: bool,
    ) -> UserPresenceOut:
        return cls(
            user_id=user_id,
            online=status is not None,
            status=status,
            connection_count=len(connections),
            connections=[ConnectionOut.of(info) for info in connections] if details else [],
        )
