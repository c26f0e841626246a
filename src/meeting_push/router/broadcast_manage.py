"""广播的 REST：发给所有人的。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, status

from ..accept.drafts import check_send_rights
from ..broadcast.service import BroadcastService
from ..model import Draft, Principal
from ..settings import MessageSettings
from .contract_route import Out, contract_router
from .json_body import JsonBody
from .message_manage import IdempotencyKey, TextIn, draft_limits


class BroadcastIn(TextIn, gc=False):
    """一条发给所有人的消息；没有回执。"""

    def draft(self) -> Draft:
        return self.draft_to((), receipt=False)


class BroadcastOut(Out):
    message_id: str
    created_at: int


def broadcast_router(
    service: BroadcastService, may_broadcast: Callable[..., object], rules: MessageSettings
) -> APIRouter:
    """``/messages/broadcast``；前缀由调用者加。"""
    router = contract_router(tags=["messages"])
    Admin = Annotated[Principal, Depends(may_broadcast)]  # noqa: N806 — 它是类型

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
        draft = body.draft()
        check_send_rights(admin, [draft])
        accepted = await service.send_broadcast(
            admin.sender, draft, idempotency_key, key_id=admin.key_id
        )
        return BroadcastOut.model_validate(accepted)

    return router
