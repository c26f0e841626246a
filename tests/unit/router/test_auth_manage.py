"""``/auth``、Bearer 依赖与错误体，经 HTTP。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import Depends, FastAPI
from loguru import logger
from pydantic import BaseModel

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.auth.auth_service import AuthService
from meeting_push.auth.passwords import Passwords
from meeting_push.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    IdempotencyConflictError,
    InvalidTokenError,
    MeetingPushError,
    NotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    RedisUnavailableError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
    UnknownRecipientsError,
)
from meeting_push.model import Principal
from meeting_push.router.auth_manage import auth_router
from meeting_push.router.error_answers import install_error_handlers, status_of
from meeting_push.router.security import Security
from meeting_push.settings import load_settings
from meeting_push.storage.database import Database
from tests.support.revoking import revocations_of

SECRET = "0123456789abcdef0123456789abcdef"
ALICE = {"username": "alice", "password": "correct horse"}


class Numbers(BaseModel):
    numbers: list[int]


@pytest.fixture
async def auth(sqlite_url: str) -> AsyncIterator[AuthService]:
    database = Database(sqlite_url)
    settings = load_settings().auth
    tokens = AccessTokens(settings, SECRET)
    yield AuthService(
        settings,
        database,
        tokens,
        revocations=revocations_of(settings, database),
        passwords=Passwords(1, 8),
    )
    await database.dispose()


@pytest.fixture
def app(auth: AuthService) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    security = Security(auth)
    app.include_router(auth_router(auth, security))

    async def whoami(principal: Principal = Depends(security.current_principal)) -> int:  # noqa: B008
        return principal.user_id

    async def admins(principal: Principal = Depends(security.require_admin)) -> int:  # noqa: B008
        return principal.user_id

    async def crash() -> None:
        raise RuntimeError("hunter2")

    async def numbers(body: Numbers) -> int:
        return len(body.numbers)

    app.add_api_route("/whoami", whoami)
    app.add_api_route("/admins", admins)
    app.add_api_route("/crash", crash)
    app.add_api_route("/numbers", numbers, methods=["POST"])
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message} {extra} {exception}", diagnose=False)
    yield lines
    logger.remove(sink)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "temporary", "details"}
    return answer.status_code, error["code"]


async def login(client: httpx.AsyncClient) -> dict[str, str]:
    await client.post("/api/v1/auth/register", json=ALICE)
    answer = await client.post("/api/v1/auth/login", json=ALICE)
    tokens: dict[str, str] = answer.json()
    return tokens


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_registering_logging_in_and_using_the_token(client: httpx.AsyncClient) -> None:
    registered = await client.post("/api/v1/auth/register", json=ALICE)
    assert registered.status_code == 201
    user_id = registered.json()["user_id"]
    assert registered.json() == {"user_id": user_id, "username": "alice"}
    tokens = await login(client)
    assert set(tokens) == {
        "access_token",
        "refresh_token",
        "token_type",
        "expires_in_s",
        "user_id",
    }
    assert (tokens["token_type"], tokens["user_id"]) == ("bearer", user_id)
    answer = await client.get("/whoami", headers=bearer(tokens["access_token"]))
    assert answer.json() == user_id


async def test_a_taken_username_is_a_conflict(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/auth/register", json=ALICE)
    answer = await client.post("/api/v1/auth/register", json=ALICE | {"username": "ALICE"})
    assert code_of(answer) == (409, "username_taken")


async def test_wrong_credentials_are_401_and_soon_429(client: httpx.AsyncClient) -> None:
    wrong = ALICE | {"password": "wrong horse"}
    for _ in range(5):
        answer = await client.post("/api/v1/auth/login", json=wrong)
        assert code_of(answer) == (401, "bad_credentials")
    answer = await client.post("/api/v1/auth/login", json=wrong)
    assert code_of(answer) == (429, "rate_limited")
    assert answer.json()["error"]["temporary"]
    assert int(answer.headers["retry-after"]) > 0


async def test_refresh_tokens_rotate_and_reuse_is_punished(client: httpx.AsyncClient) -> None:
    first = await login(client)
    body = {"refresh_token": first["refresh_token"]}
    second = await client.post("/api/v1/auth/refresh", json=body)
    assert set(second.json()) == set(first)
    assert code_of(await client.post("/api/v1/auth/refresh", json=body)) == (401, "revoked")
    body = {"refresh_token": second.json()["refresh_token"]}
    assert code_of(await client.post("/api/v1/auth/refresh", json=body)) == (401, "revoked")


async def test_logging_out_is_204_and_ends_the_session(client: httpx.AsyncClient) -> None:
    tokens = await login(client)
    headers = bearer(tokens["access_token"])
    answer = await client.post("/api/v1/auth/logout", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    body = {"refresh_token": tokens["refresh_token"]}
    assert code_of(await client.post("/api/v1/auth/refresh", json=body)) == (401, "revoked")
    assert code_of(await client.get("/whoami", headers=headers)) == (401, "revoked")


async def test_a_refused_token_is_logged_with_the_address_but_not_endlessly(
    client: httpx.AsyncClient, log: list[str]
) -> None:
    for _ in range(50):
        await client.get("/whoami", headers=bearer("nonsense"))
    lines = [line for line in log if "rest_auth_failed" in line]
    assert 1 <= len(lines) <= 12
    assert "'address': '127.0.0.1'" in lines[0]
    assert "nonsense" not in "".join(lines)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "unauthenticated"),
        ({"Authorization": ""}, "unauthenticated"),
        ({"Authorization": "Bearer"}, "unauthenticated"),
        ({"Authorization": "Basic YTpi"}, "unauthenticated"),
        ({"Authorization": "Bearer nonsense"}, "invalid_token"),
        ({"Authorization": b"Bearer \xff\xfe"}, "invalid_token"),
        ({"Cookie": "access_token=x"}, "unauthenticated"),
    ],
    ids=str,
)
async def test_without_a_good_bearer_token_it_is_401(
    client: httpx.AsyncClient, headers: dict[str, str | bytes], code: str
) -> None:
    raw = [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in headers.items()]
    answer = await client.get("/whoami", headers=raw)
    assert code_of(answer) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_has_its_own_code(
    client: httpx.AsyncClient, auth: AuthService
) -> None:
    token = auth.issue_access_token(1, ttl_s=-60)
    assert code_of(await client.get("/whoami", headers=bearer(token))) == (401, "token_expired")


async def test_only_administrators_are_administrators(
    client: httpx.AsyncClient, auth: AuthService
) -> None:
    user, admin = auth.issue_access_token(1), auth.issue_access_token(2, "admin")
    assert code_of(await client.get("/admins", headers=bearer(user))) == (403, "forbidden")
    assert (await client.get("/admins", headers=bearer(admin))).json() == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"username": "alice"},
        {"username": "alice", "password": 12345678},
        {"username": "alice", "password": None},
        {"username": ["alice"], "password": "correct horse"},
        {"username": 5, "password": "correct horse"},
        {"username": "al", "password": "correct horse"},
        {"username": "a\0lice", "password": "correct horse"},
        {"username": "alice", "password": "x" * 1025},
        {"username": "x" * 10_000, "password": "correct horse"},
        [],
        "alice",
        5,
        None,
    ],
    ids=lambda body: str(body)[:40],
)
async def test_a_bad_registration_is_422(client: httpx.AsyncClient, body: object) -> None:
    answer = await client.post("/api/v1/auth/register", json=body)
    assert code_of(answer) == (422, "invalid_input")


async def test_a17_a_weak_password_has_its_own_code(client: httpx.AsyncClient) -> None:
    """A17: ``12345678`` 曾被接受。"""
    answer = await client.post("/api/v1/auth/register", json=ALICE | {"password": "12345678"})
    assert code_of(answer) == (422, "weak_password")


async def test_unknown_fields_are_ignored(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/auth/register", json=ALICE | {"role": "admin", "x": 1})
    assert answer.status_code == 201
    token = (await login(client))["access_token"]
    assert code_of(await client.get("/admins", headers=bearer(token))) == (403, "forbidden")


async def test_sec_2_a_refused_password_is_not_echoed(
    client: httpx.AsyncClient, log: list[str]
) -> None:
    for password in (["hunter2"], {"x": "hunter2"}, "hunter2"):
        body = {"username": "alice", "password": password}
        answer = await client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 422
        assert "hunter2" not in answer.text
    assert "hunter2" not in str(log)


async def test_the_bad_field_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/auth/login", json={"username": "alice"})
    assert answer.json()["error"]["details"] == [
        {"field": "body.password", "message": "Field required"}
    ]


async def test_the_list_of_bad_fields_is_bounded(client: httpx.AsyncClient) -> None:
    answer = await client.post("/numbers", json={"numbers": ["x"] * 10_000})
    assert len(answer.json()["error"]["details"]) == 20


@pytest.mark.parametrize(
    "raw",
    [b"{", b"not json", b"\xff\xfe", b'{"username": "\xff"}', b"[" * 60_000, b"9" * 5000],
    ids=lambda raw: repr(raw[:12]),
)
async def test_a_body_that_is_not_json_is_400(client: httpx.AsyncClient, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/api/v1/auth/login", content=raw, headers=headers)
    assert code_of(answer) == (400, "invalid_json")


@pytest.mark.parametrize(
    "raw",
    [b'{"username": "\\ud800lice", "password": "correct horse"}', b'{"username": NaN}', b""],
    ids=repr,
)
async def test_json_with_strange_values_is_a_client_error(
    client: httpx.AsyncClient, raw: bytes
) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/api/v1/auth/register", content=raw, headers=headers)
    assert code_of(answer)[0] == 422


async def test_what_is_not_there_looks_like_any_error(client: httpx.AsyncClient) -> None:
    assert code_of(await client.get("/nowhere")) == (404, "not_found")
    answer = await client.get("/api/v1/auth/login")
    assert code_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_an_unexpected_error_is_logged_and_shows_nothing(
    client: httpx.AsyncClient, log: list[str]
) -> None:
    answer = await client.get("/crash")
    assert code_of(answer) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert any("request_failed" in line and "RuntimeError" in line for line in log)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidTokenError(""), 401),
        (TokenExpiredError(""), 401),
        (TokenNotYetValidError(""), 401),
        (TokenRevokedError(""), 401),
        (NotFoundError(""), 404),
        (IdempotencyConflictError(""), 409),
        (PayloadTooLargeError(""), 413),
        (UnknownRecipientsError([1]), 422),
        (QueueFullError(""), 429),
        (DatabaseUnavailableError(""), 503),
        (RedisUnavailableError(""), 503),
        (ConfigurationError(""), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_its_status(error: MeetingPushError, status: int) -> None:
    assert status_of(error) == status


async def test_an_error_keeps_its_details_and_says_when_to_come_back(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async def unknown() -> None:
        raise UnknownRecipientsError([7])

    async def unavailable() -> None:
        raise DatabaseUnavailableError("later")

    app.add_api_route("/unknown", unknown)
    app.add_api_route("/unavailable", unavailable)
    details = (await client.get("/unknown")).json()["error"]["details"]
    assert details == {"user_ids": [7]}
    answer = await client.get("/unavailable")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["temporary"] is True


async def test_the_documentation_shows_the_calls_and_the_bearer_scheme(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/api/v1/auth/logout"]["post"]["security"] == [{"HTTPBearer": []}]
    assert document["paths"]["/api/v1/auth/login"]["post"]["summary"] == "登录"
