"""运维的端点：活着、就绪、指标。不要令牌，也不透露任何用户的事。"""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

from ..http.ops_http import OpsAnswer, OpsEndpoint, refused
from ..http.refusals import Refusal
from ..monitoring.health import Health
from ..monitoring.metrics import Metrics
from .contract_route import ContractRoute

_NOT_FOUND: Final = Refusal(404, "not_found", "there is no such path here")


class ReadyOut(BaseModel):
    """两处都是部件 → 原因：``failing`` 使本角色做不成事，``degraded`` 是别的。"""

    ready: bool
    failing: dict[str, str]
    degraded: dict[str, str]


def ops_router(health: Health, metrics: Metrics) -> APIRouter:
    """``/healthz``、``/readyz``、``/metrics``，挂在根下。"""
    router = APIRouter(tags=["ops"], route_class=ContractRoute)

    @router.get("/healthz", summary="进程活着", response_class=PlainTextResponse)
    async def healthz() -> str:
        return "ok"

    @router.get(
        "/readyz",
        summary="可以接活；否则 503 与不行的部分",
        response_model=ReadyOut,
        responses={503: {"model": ReadyOut, "description": "不就绪"}},
    )
    async def readyz() -> JSONResponse:
        report = await health.report()
        return JSONResponse(report.as_dict(), status_code=200 if report.ready else 503)

    @router.get("/metrics", summary="Prometheus 文本", response_class=PlainTextResponse)
    async def metrics_text() -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    return router


def ops_endpoint(health: Health, metrics: Metrics) -> OpsEndpoint:
    """同样的三个端点，给没有 FastAPI 的裸网关端口。"""

    async def answer(path: str) -> OpsAnswer:
        if path == "/healthz":
            return OpsAnswer(200, "text/plain", b"ok")
        if path == "/readyz":
            report = await health.report()
            body = msgspec.json.encode(report.as_dict())
            return OpsAnswer(200 if report.ready else 503, "application/json", body)
        if path == "/metrics":
            return OpsAnswer(200, metrics.content_type, metrics.render())
        return refused(_NOT_FOUND)

    return answer
