"""队列的 REST：长度与死信，只给管理员。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from ..outcome.dead_letters import DeadLetters
from ..queue.message_queue import MessageQueue
from .contract_route import contract_router
from .delivery_models import (
    LETTER_ID_PATTERN,
    DeadLetterOut,
    DeadLettersOut,
    RequeuedOut,
    RequeueIn,
)
from .json_body import JsonBody
from .message_manage import Limit


def queue_router(
    queue: MessageQueue, dead_letters: DeadLetters, require_admin: Callable[..., object]
) -> APIRouter:
    """``/queues…``；前缀由调用者加。"""
    router = contract_router(tags=["queues"], dependencies=[Depends(require_admin)])

    @router.get("/queues", summary="各队列的长度、未确认数、最老条目的年龄")
    async def queues() -> dict[str, list[dict[str, Any]]]:
        return {"items": [asdict(length) for length in await queue.lengths()]}

    @router.get("/queues/dead-letter", summary="死信，新的在前")
    async def list_dead_letters(
        cursor: Annotated[str | None, Query(pattern=f"^{LETTER_ID_PATTERN}$")] = None,
        limit: Limit = 50,
    ) -> DeadLettersOut:
        letters, next_cursor = await dead_letters.page(cursor, limit)
        return DeadLettersOut(
            items=[DeadLetterOut.of(letter) for letter in letters], next_cursor=next_cursor
        )

    @router.post("/queues/dead-letter/requeue", summary="死信重新入队")
    async def requeue(
        body: Annotated[RequeueIn, Depends(JsonBody(RequeueIn))],
    ) -> RequeuedOut:
        requeued = await dead_letters.requeue(body.ids)
        return RequeuedOut(
            requeued=requeued, skipped=[each for each in body.ids if each not in requeued]
        )

    return router
