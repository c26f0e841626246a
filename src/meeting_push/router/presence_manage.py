"""在线状态的 REST：谁在线、一个人的设备、踢掉一台设备。

不用 ``from __future__ import annotations``：见 ``message_manage``。
"""

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Path, Query, status
from pydantic import Field

from ..errors import ForbiddenError, NotFoundError
from ..model import ConnectionInfo, PresenceStatus, Principal, Transport
from ..node.control_channel import ControlChannel, Kick
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..presence.online_status_service import OnlineStatusService
from ..redis.presence import overall_status
from .contract_route import Out, contract_router
from .persons import InPath, Who
from .security import Security


class OnlineUserOut(Out):
    user_id: PersonId
    connection_count: int
    status: PresenceStatus | None


class OnlineUsersOut(Out):
    items: list[OnlineUserOut]
    next_cursor: str | None


class ConnectionOut(Out):
    """一台设备；时刻为毫秒。``last_heartbeat`` 在很大的节点上可以旧几分钟，不影响在不在线。"""

    connection_id: str
    device_id: str
    device_info: str
    connect_time: int
    last_heartbeat: int
    ip_address: str
    status: PresenceStatus
    transport: Transport


class UserPresenceOut(Out):
    user_id: PersonId
    online: bool
    status: PresenceStatus | None = Field(description="几台设备合起来的；离线为 null")
    connection_count: int
    connections: list[ConnectionOut] = Field(description="只给本人与管理员；别人看到空表")

    @classmethod
    def of(
        cls,
        user_id: PersonId,
        status: PresenceStatus | None,
        connections: Sequence[ConnectionInfo],
        *,
        details: bool,
    ) -> Self:
        return cls(
            user_id=user_id,
            online=status is not None,
            status=status,
            connection_count=len(connections),
            connections=[ConnectionOut.model_validate(each) for each in connections]
            if details
            else [],
        )


ConnectionIdPath = Annotated[str, Path(min_length=1, max_length=64)]


def presence_router(
    presence: OnlineStatusService,
    control: ControlChannel,
    security: Security,
    people: People = INTEGERS,
) -> APIRouter:
    """``/presence…``；前缀由调用者加。"""
    router = contract_router("/presence", tags=["presence"])
    CurrentUser = Annotated[Principal, Depends(security.allowing("admin"))]  # noqa: N806 — 类型
    Viewer = Annotated[Principal, Depends(security.allowing("presence"))]  # noqa: N806
    UserInPath = Annotated[Who, Depends(InPath(people))]  # noqa: N806

    @router.get(
        "/online",
        summary="在线用户，按 id 升序（管理员）",
        dependencies=[Depends(security.admin_or("presence"))],
    )
    async def online(
        cursor: Annotated[str | None, Query(pattern="^[0-9]{1,16}$")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="一页几个")] = 100,
    ) -> OnlineUsersOut:
        page = await presence.online_page(int(cursor or 0), limit + 1)
        shown = await people.persons(each for each, _ in page)
        items = [
            OnlineUserOut(
                user_id=shown[each], connection_count=len(row), status=overall_status(row)
            )
            for each, row in page[:limit]
        ]
        more = len(page) > limit
        return OnlineUsersOut(items=items, next_cursor=str(page[limit - 1][0]) if more else None)

    @router.get("/users/{user_id}", summary="一个用户在不在线；设备的详情只给本人与管理员")
    async def user(who: UserInPath, viewer: Viewer) -> UserPresenceOut:
        connections = await presence.get_user_connections(who.number)
        return UserPresenceOut.of(
            who.person,
            overall_status(connections),
            connections,
            details=_may_manage(viewer, who) or viewer.key_id is not None,
        )

    @router.delete(
        "/users/{user_id}/connections",
        status_code=status.HTTP_204_NO_CONTENT,
        summary="踢掉此刻的每一台设备，不论在哪个节点（本人、管理员）",
    )
    async def kick_all(who: UserInPath, viewer: CurrentUser) -> None:
        """令牌仍然有效：要他进不来，用 ``POST /users/{user_id}/revoke``。"""
        if not _may_manage(viewer, who):
            raise ForbiddenError("only the user and administrators may do this")
        for info in await presence.get_user_connections(who.number):
            await control.publish(Kick(user_id=who.number, connection_id=info.connection_id))

    @router.delete(
        "/users/{user_id}/connections/{connection_id}",
        status_code=status.HTTP_204_NO_CONTENT,
        summary="踢掉一台设备，不论它在哪个节点（本人、管理员）",
    )
    async def kick(who: UserInPath, connection_id: ConnectionIdPath, viewer: CurrentUser) -> None:
        if not _may_manage(viewer, who):
            raise ForbiddenError("only the user and administrators may do this")
        known = await presence.get_user_connections(who.number)
        if all(info.connection_id != connection_id for info in known):
            raise NotFoundError("no such connection")
        await control.publish(Kick(user_id=who.number, connection_id=connection_id))

    return router


def _may_manage(viewer: Principal, who: Who) -> bool:
    return viewer.is_admin or viewer.user_id == who.number
