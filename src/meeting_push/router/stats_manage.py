"""统计：给运维与操作页的一眼全景。

不用 ``from __future__ import annotations``：见 ``message_manage``。
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends

from ..monitoring.node_reports import NodeReports
from ..queue.message_queue import MessageQueue
from .contract_route import contract_router
from .security import Security
from .stats_models import StatsOut


def stats_router(
    reports: NodeReports,
    queue: MessageQueue,
    count_online: Callable[[], Awaitable[int]],
    security: Security,
) -> APIRouter:
    """``/stats``；前缀由调用者加。"""
    router = contract_router(tags=["stats"])

    @router.get(
        "/stats",
        summary="连接、节点、速率、延迟、心跳与清理、队列（管理员）",
        dependencies=[Depends(security.require_admin)],
    )
    async def stats() -> StatsOut:
        return StatsOut.of(await reports.read(), await queue.lengths(), await count_online())

    return router
