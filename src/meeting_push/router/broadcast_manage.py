"""广播的 REST：管理员发给所有人。

不用 ``from __future__ import annotations``，原因同 ``message_manage``。
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, status

from ..accept.draft_rules import DraftRules
from ..broadcast.service import BroadcastService
from ..model import Principal, Sender
from .contract_route import contract_router
from .json_body import JsonBody
from .message_manage import IdempotencyKey
from .message_models import BroadcastIn, BroadcastOut, draft_limits


def broadcast_router(
    service: BroadcastService, require_admin: Callable[..., object], rules: DraftRules
) -> APIRouter:
    """``/messages/broadcast``；前缀由调用者加。"""
    router = contract_router(tags=["messages"])
    Admin = Annotated[Principal, Depends(require_admin)]  # noqa: N806 — 它是类型

    @router.post(
        "/messages/broadcast",
        status_code=status.HTTP_202_ACCEPTED,
        summary="发给所有用户（管理员）",
    )
    async def broadcast(
        admin: Admin,
        body: Annotated[BroadcastIn, Depends(JsonBody(BroadcastIn, draft_limits(rules)))],
        idempotency_key: IdempotencyKey = None,
    ) -> BroadcastOut:
        """202 即已提交：在线的立即收到；不在的，有效期内连上时收到。"""
        sender = Sender(admin.user_id, admin.name)
        accepted = await service.send_broadcast(sender, body.draft(), idempotency_key)
        return BroadcastOut(message_id=accepted.message_id, created_at=accepted.created_at)

    return router
