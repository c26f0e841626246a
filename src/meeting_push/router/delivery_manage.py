"""投递状态的 REST：统计、失败与重新入队、信箱。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, status

from ..clock import now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import ForbiddenError
from ..model import MAX_USER_ID, Principal
from ..outcome.delivery_confirmation_service import DAY_S, DeliveryConfirmationService
from ..outcome.failures import DeliveryFailures
from .contract_route import contract_router
from .delivery_models import (
    ClearedOut,
    CountOut,
    FailureOut,
    FailuresOut,
    OfflineMessageOut,
    OfflineMessagesOut,
    StatisticsOut,
)
from .message_manage import Limit, MessageIdPath

UserIdPath = Annotated[int, Path(ge=1, le=MAX_USER_ID)]
Window = Annotated[int, Query(ge=1, le=366 * DAY_S, description="最近多少秒")]


def delivery_router(
    confirmation: DeliveryConfirmationService,
    failures: DeliveryFailures,
    mailbox: OfflineMessageQueue,
    current_principal: Callable[..., object],
    require_admin: Callable[..., object],
) -> APIRouter:
    """``/deliveries…`` 与 ``/users/{id}/…``；前缀由调用者加。"""
    router = contract_router(tags=["deliveries"])
    CurrentUser = Annotated[Principal, Depends(current_principal)]  # noqa: N806 — 它是类型
    admin_only = [Depends(require_admin)]

    @router.get("/deliveries/failures", summary="失败的投递，新的在前", dependencies=admin_only)
    async def list_failures(
        cursor: Annotated[
            str | None, Query(pattern="^[0-9]{1,18}:[0-9A-Z]{26}:[0-9]{1,18}$")
        ] = None,
        limit: Limit = 50,
    ) -> FailuresOut:
        items, next_cursor = await confirmation.get_delivery_failure_messages(cursor, limit)
        return FailuresOut(items=[FailureOut.of(one) for one in items], next_cursor=next_cursor)

    @router.post(
        "/deliveries/failures/{message_id}/{user_id}/requeue",
        summary="失败的投递从头再来",
        status_code=status.HTTP_204_NO_CONTENT,
        dependencies=admin_only,
    )
    async def requeue(message_id: MessageIdPath, user_id: UserIdPath) -> None:
        """404：没有这样一条失败；409：消息已过期。"""
        await failures.requeue(message_id, user_id)

    @router.get("/users/{user_id}/delivery-statistics", summary="发给一个用户的投递统计")
    async def statistics(
        user_id: UserIdPath, user: CurrentUser, window_s: Window = DAY_S
    ) -> StatisticsOut:
        _self_or_admin(user, user_id)
        found = await confirmation.get_user_delivery_statistics(user_id, window_s)
        return StatisticsOut.of_user(found)

    @router.get("/users/{user_id}/offline-messages", summary="信箱里的消息（只读）")
    async def offline_messages(
        user_id: UserIdPath, user: CurrentUser, limit: Limit = 100
    ) -> OfflineMessagesOut:
        _self_or_admin(user, user_id)
        found = await mailbox.get_offline_messages(user_id, limit)
        now = now_ms()
        return OfflineMessagesOut(
            items=[OfflineMessageOut.of(one, now) for one in found],
            count=await mailbox.get_offline_message_count(user_id),
        )

    @router.get("/users/{user_id}/offline-messages/count", summary="信箱里有几条")
    async def offline_message_count(user_id: UserIdPath, user: CurrentUser) -> CountOut:
        _self_or_admin(user, user_id)
        return CountOut(count=await mailbox.get_offline_message_count(user_id))

    @router.delete("/users/{user_id}/offline-messages", summary="清空信箱")
    async def clear(user_id: UserIdPath, user: CurrentUser) -> ClearedOut:
        """清掉的对发送者是 failed，原因 ``cleared``；收件箱（SQL）里仍看得到。"""
        _self_or_admin(user, user_id)
        return ClearedOut(cleared=await failures.clear(user_id))

    return router


def _self_or_admin(viewer: Principal, user_id: int) -> None:
    if viewer.user_id != user_id and not viewer.is_admin:
        raise ForbiddenError("only the user and administrators")
