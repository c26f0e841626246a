"""REST 的请求：按路由的模板数，不认识的路径不添标签。"""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from meeting_push.errors import NotFoundError
from meeting_push.monitoring.edge_samples import RestRequests
from meeting_push.router.contract_route import (
    ContractRoute,
    complete,
    contract_router,
    methods_of,
)
from meeting_push.router.error_answers import install_error_handlers

Counts = dict[tuple[str, str, str], float]


def app_with(requests: RestRequests) -> FastAPI:
    router = contract_router()

    @router.get("/things/{thing}")
    async def thing(thing: int) -> int:
        if thing == 1:
            raise NotFoundError("no such thing")
        if thing == 2:
            raise RuntimeError("broken")
        return thing

    app = FastAPI()
    install_error_handlers(app)
    table = complete(router.routes)
    for route in table:
        if isinstance(route, ContractRoute):
            route.requests = requests.of(min(methods_of(route)), route.path)
    app.router.routes.extend(table)
    return app


def counts(requests: RestRequests) -> Counts:
    return {
        (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
        for one in requests.samples()
        if one.value
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/things/7", "2xx"),
        ("GET", "/things/8", "2xx"),
        ("HEAD", "/things/7", "2xx"),
        ("GET", "/things/1", "4xx"),
        ("GET", "/things/x", "4xx"),
        ("GET", "/things/2", "5xx"),
        ("DELETE", "/things/7", "4xx"),
    ],
)
async def test_a_request_is_counted_under_its_template(method: str, path: str, status: str) -> None:
    requests = RestRequests()
    transport = httpx.ASGITransport(app=app_with(requests), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        await client.request(method, f"/api/v1{path}")
    assert counts(requests) == {("GET", "/api/v1/things/{thing}", status): 1}
    [histogram] = list(requests.histograms())
    assert histogram.histogram.count == 1
    assert histogram.labels == {"method": "GET", "route": "/api/v1/things/{thing}"}


def test_every_route_is_there_before_its_first_request() -> None:
    requests = RestRequests()
    requests.of("POST", "/x")
    assert [one.value for one in requests.samples()] == [0] * 6
