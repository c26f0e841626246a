"""拒绝了的请求看得见（E12）：每个码一个计数器、一行日志，不论有多少；热路绕过框架，别的照旧。"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response, params
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from meeting_push import MeetingPush, load_settings
from meeting_push.router.contract_route import ContractRoute, HotDoor, contract_router
from meeting_push.router.json_body import HotRequest
from tests.support.embedded import hosted
from tests.support.garbage import left_behind
from tests.support.redis_server import RedisServer


@pytest.fixture
async def api(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> AsyncIterator[httpx.AsyncClient]:
    settings = load_settings(data_dir=tmp_path, redis_url=redis7_server.url, key_prefix=key_prefix)
    async with (
        hosted(MeetingPush(settings, identity="accounts")) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client


async def counted(api: httpx.AsyncClient, code: str) -> float:
    text = (await api.get("/metrics")).text
    name = f'meeting_push_requests_refused_total{{code="{code}"}} '
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/auth/login", {"username": "nobody"}, "invalid_input"),
        ("/auth/register", {"username": "alice", "password": "12345678"}, "weak_password"),
        ("/auth/refresh", {"refresh_token": "x"}, "invalid_token"),
        ("/messages", {}, "unauthenticated"),
    ],
)
async def test_e12_refused_requests_are_counted_and_said_once(
    path: str, body: object, code: str, api: httpx.AsyncClient, log: list[str]
) -> None:
    """E12: 0.1 里 754 个拒绝在日志与指标里什么也没有。"""
    for _ in range(30):
        await api.post(f"/api/v1{path}", json=body)
    assert await counted(api, code) == 30
    lines = [line for line in log if line.startswith("requests_refused")]
    assert len(lines) == 1
    assert f"'code': '{code}'" in lines[0]


async def test_e12_the_counters_are_there_from_the_start(api: httpx.AsyncClient) -> None:
    assert await counted(api, "database_unavailable") == 0


def direct_app(*, included_with: Sequence[params.Depends] = ()) -> FastAPI:
    """一条热路：``x-odd`` 的由框架来办。"""
    router = contract_router()

    @router.get("/thing")
    async def thing() -> str:
        return "framework"

    async def handle(_request: Request) -> Response:
        return JSONResponse("direct")

    [route] = router.routes
    assert isinstance(route, ContractRoute)
    route.go_direct(handle, lambda request: "x-odd" not in request.headers)
    app = FastAPI()
    if included_with:
        app.include_router(router, dependencies=included_with)
    else:
        app.router.routes.append(route)
    return app


async def told(app: FastAPI, **headers: str) -> tuple[int, object]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        answer = await client.get("/api/v1/thing", headers=headers)
    return answer.status_code, answer.json()


async def test_a_hot_route_does_without_the_framework_and_leaves_the_odd_to_it() -> None:
    app = direct_app()
    assert await told(app) == (200, "direct")
    assert await told(app, **{"x-odd": "1"}) == (200, "framework")


async def test_a_hot_route_in_somebody_elses_application_keeps_his_dependencies() -> None:
    def closed() -> None:
        raise HTTPException(418)

    assert (await told(direct_app(included_with=[Depends(closed)])))[0] == 418


async def told_at_the_hot_door(
    app: FastAPI, *, prefix: str = "", method: str = "GET", **headers: str
) -> tuple[int, object]:
    transport = httpx.ASGITransport(HotDoor(app), root_path=prefix, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        answer = await client.request(method, f"{prefix}/api/v1/thing", headers=headers)
    return answer.status_code, answer.json()


def closing(app: FastAPI) -> FastAPI:
    """走到应用的中间件的，一律 418。"""

    @app.middleware("http")
    async def close(_request: Request, _next: object) -> Response:
        return JSONResponse("closed", 418)

    return app


async def test_a_hot_route_is_known_before_the_applications_middlewares() -> None:
    assert await told_at_the_hot_door(closing(direct_app())) == (200, "direct")


@pytest.mark.parametrize(
    "asked", [{"x-odd": "1"}, {"method": "POST"}, {"prefix": "/mounted"}], ids=str
)
async def test_what_is_not_plainly_a_hot_route_is_the_applications(asked: dict[str, str]) -> None:
    assert await told_at_the_hot_door(closing(direct_app()), **asked) == (418, "closed")


def failing_app(error: Exception) -> FastAPI:
    app = direct_app()

    async def fail(_request: Request) -> Response:
        raise error

    [route] = [each for each in app.routes if isinstance(each, ContractRoute)]
    route.go_direct(fail, lambda _request: True)
    return app


async def test_an_unexpected_error_at_the_hot_door_shows_nothing_and_has_the_id() -> None:
    app = HotDoor(failing_app(ZeroDivisionError("secret")))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        answer = await client.get("/api/v1/thing", headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "mine"


async def test_a1_an_unexpected_error_at_the_hot_door_leaves_no_cycles() -> None:
    """A1: 出了错的请求也不等垃圾回收。"""
    app = direct_app()

    async def fail(_request: Request) -> Response:
        raise ZeroDivisionError

    [route] = [each for each in app.routes if isinstance(each, ContractRoute)]
    route.go_direct(fail, lambda _request: True)
    transport = httpx.ASGITransport(HotDoor(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        await client.get("/api/v1/thing")  # 首次使用才造的不算
        gc.collect()
        gc.disable()
        try:
            assert (await client.get("/api/v1/thing")).status_code == 500
            assert left_behind((HotRequest, ZeroDivisionError)) == {}
        finally:
            gc.enable()


async def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_ours() -> None:
    app = HotDoor(failing_app(ClientDisconnect()))
    transport = httpx.ASGITransport(app)  # 抛出来的就是这里的失败
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        assert (await client.get("/api/v1/thing")).status_code == 499
