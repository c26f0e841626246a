"""人归谁（F1）：人归应用时，我们不发 id、不发令牌，陌生人成不了它的客户。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from meeting_push import MeetingPush, load_settings
from meeting_push.auth.accounts import Accounts
from meeting_push.auth.passwords import Passwords
from meeting_push.errors import ConfigurationError
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database
from tests.support.embedded import hosted
from tests.support.people import Person, device, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess
from tests.system.test_cli import meeting_push

KEY: Final = ec.generate_private_key(ec.SECP256R1())
PEM: Final = (
    KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
ACCOUNT_ROUTES: Final = ("register", "login", "refresh")
CREDENTIALS: Final = {"username": "mallory", "password": "correct horse battery"}


Embedded = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


class Customers:
    """应用自己的名册：2 是客户。"""

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return {user_id for user_id in user_ids if user_id == 2}


def signed(key: Any, algorithm: str, **claims: object) -> str:
    given = {"sub": "2", "iat": 1, "exp": 4_000_000_000, **claims}
    return jwt.encode({k: v for k, v in given.items() if v is not None}, key, algorithm)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def embedded(tmp_path: Path, redis7_server: RedisServer, key_prefix: str) -> Embedded:
    """用这些设置与参数内嵌起来，给出指向它的 REST 客户端。"""

    @contextlib.asynccontextmanager
    async def run(settings: dict[str, object], **given: Any) -> AsyncIterator[httpx.AsyncClient]:
        shared = {"redis_url": redis7_server.url, "key_prefix": key_prefix, "data_dir": tmp_path}
        push = MeetingPush(load_settings(**{**shared, **settings}), **given)
        async with (
            hosted(push) as address,
            httpx.AsyncClient(base_url=f"http://{address}/api/v1", trust_env=False) as api,
        ):
            yield api

    return run


OURS: Final[dict[str, object]] = {"jwt_secret": TEST_JWT_SECRET}
THEIRS: Final[dict[str, object]] = {"jwt_algorithms": ["ES256"], "jwt_public_key": PEM}


@pytest.mark.parametrize("settings", [OURS, THEIRS], ids=["HS256", "ES256"])
@pytest.mark.parametrize("directory", [None, Customers()], ids=["everybody", "directory"])
async def test_f1_a_stranger_can_not_become_an_applications_customer(
    settings: dict[str, object], directory: Customers | None, embedded: Embedded
) -> None:
    """F1: 没有注册、登录、刷新这三条路。"""
    async with embedded(settings, directory=directory) as api:
        answers = [await api.post(f"/auth/{name}", json=CREDENTIALS) for name in ACCOUNT_ROUTES]
    assert [answer.status_code for answer in answers] == [404, 404, 404]


FORGED: Final = (
    None,
    "mallory",
    jwt.encode({"sub": "2", "iat": 1, "exp": 4_000_000_000}, "", "none"),
    jwt.encode({"sub": "2", "iat": 1, "exp": 4_000_000_000}, "another secret " * 3, "HS256"),
)


@pytest.mark.parametrize("directory", [None, Customers()], ids=["everybody", "directory"])
async def test_f1_no_way_in_exists_to_become_somebody(
    directory: Customers | None, database_url: str, embedded: Embedded
) -> None:
    """F1: 共用的密钥在应用手里；我们的每一扇门都只认它签的，我们自己的账号表也帮不了谁。"""
    database = Database(database_url)
    await Accounts(UserRepository(database), Passwords()).create(role="admin", **CREDENTIALS)
    await database.dispose()
    settings = OURS | {"database_url": database_url, "auth_failure_delay_s": 0}
    async with embedded(settings, directory=directory) as api:
        routes = [await api.post(f"/auth/{name}", json=CREDENTIALS) for name in ACCOUNT_ROUTES]
        doors = [
            await api.request(method, path, headers={} if token is None else bearer(token))
            for token in FORGED
            for method, path in (
                ("POST", "/auth/ws-ticket"),
                ("POST", "/auth/logout"),
                ("POST", "/users/2/revoke"),
                ("GET", "/messages"),
            )
        ]
        address = f"ws://{api.base_url.host}:{api.base_url.port}/ws"
        closed = [
            await close_code(f"{address}/{path}?{name}={token or ''}")
            for token in FORGED
            for path in ("user/2/messages", "meeting/01J00000000000000000000000")
            for name in ("token", "ticket")
        ]
    assert {answer.status_code for answer in routes} == {404}
    assert {answer.status_code for answer in doors} == {401}
    assert set(closed) == {4500}


async def close_code(address: str) -> int | None:
    async with connect(address, proxy=None) as socket:
        await socket.wait_closed()
        return socket.close_code


async def test_f1_the_rest_of_auth_stays(embedded: Embedded) -> None:
    """F1: 票据、登出、吊销照旧。"""
    token = signed(TEST_JWT_SECRET, "HS256", jti="a")
    admin = signed(TEST_JWT_SECRET, "HS256", sub="9", role="admin")
    async with embedded(OURS) as api:
        answers = [
            await api.post("/auth/ws-ticket", headers=bearer(token)),
            await api.post("/auth/logout", headers=bearer(token)),
            await api.post("/users/2/revoke", headers=bearer(admin)),
        ]
    assert [answer.status_code for answer in answers] == [200, 204, 204]


async def test_f1_accounts_are_there_when_asked_for(embedded: Embedded) -> None:
    async with embedded(OURS, identity="accounts") as api:
        made = await api.post("/auth/register", json=CREDENTIALS)
        token = (await api.post("/auth/login", json=CREDENTIALS)).json()["access_token"]
    assert made.status_code == 201
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "meeting-push"


async def test_f1_whoever_is_addressed_exists_unless_a_directory_says_otherwise(
    embedded: Embedded,
) -> None:
    body = {"recipient_ids": [2, 3], "title": "t", "content": "c"}
    headers = bearer(signed(TEST_JWT_SECRET, "HS256"))
    async with embedded(OURS) as api:
        anybody = await api.post("/messages", json=body, headers=headers)
    async with embedded(OURS, directory=Customers()) as api:
        customers = await api.post("/messages", json=body, headers=headers)
    assert anybody.status_code == 202
    assert customers.json()["error"]["details"] == {"user_ids": [3]}


@pytest.mark.parametrize(
    ("wanted", "audience", "status"),
    [
        (None, None, 200),
        (None, "another-service", 200),
        ("shop", "shop", 200),
        ("shop", ["shop", "x"], 200),
        ("shop", None, 401),
        ("shop", "another-service", 401),
    ],
)
async def test_f1_an_audience_is_required_only_when_one_is_set(
    wanted: str | None, audience: object, status: int, embedded: Embedded
) -> None:
    settings = OURS | ({"jwt_audience": wanted} if wanted else {})
    token = signed(TEST_JWT_SECRET, "HS256", aud=audience)
    async with embedded(settings) as api:
        assert (await api.get("/messages", headers=bearer(token))).status_code == status


async def test_f1_a_directory_that_knows_names_is_asked_for_them_in_bulk(
    embedded: Embedded,
) -> None:
    """信箱的一览里有名字；它出错也只是没有名字。"""

    class Named(Customers):
        asked: ClassVar[list[Sequence[int]]] = []

        async def names(self, user_ids: Sequence[int]) -> dict[int, str]:
            self.asked.append(list(user_ids))
            if len(self.asked) > 1:
                raise ConnectionError
            return dict.fromkeys(user_ids, "Ann")

    body = {"recipient_ids": [2], "title": "t", "content": "c"}
    admin = bearer(signed(TEST_JWT_SECRET, "HS256", sub="9", role="admin"))
    async with embedded(OURS, directory=Named()) as api:
        await api.post("/messages", json=body, headers=admin)
        answers = [await api.get("/users/2/inspect", headers=admin) for _ in range(2)]
    assert [answer.json()["name"] for answer in answers] == ["Ann", None]
    assert Named.asked == [[2], [2]]


async def test_a_directory_that_raises_is_temporary_and_says_nothing_else(
    embedded: Embedded,
) -> None:
    """F4 的同类，应用的名册出错，503 而不是 500。"""

    class Broken:
        async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
            raise ConnectionError(f"could not ask about {user_ids}")

    body = {"recipient_ids": [2], "title": "t", "content": "c"}
    async with embedded(OURS, directory=Broken()) as api:
        answer = await api.post(
            "/messages", json=body, headers=bearer(signed(TEST_JWT_SECRET, "HS256"))
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "directory_unavailable")


def test_accounts_need_a_key_to_sign_with(tmp_path: Path) -> None:
    """F1: 0.1 里注册 201 而登录 500。"""
    with pytest.raises(ConfigurationError, match="HS"):
        MeetingPush(load_settings(data_dir=tmp_path, **THEIRS), identity="accounts")


# ── serve ───────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """``serve``，令牌由别处的私钥签发；别的一样不说。"""
    settings = {"jwt_public_key": PEM, "jwt_claim_role": "realm_access.roles"}
    with ServerProcess(tmp_path_factory.mktemp("foreign"), settings=settings) as server:
        yield server


def test_f1_serve_with_a_public_key_has_no_accounts(foreign: ServerProcess) -> None:
    statuses = [
        httpx.post(
            f"{foreign.base_url}/api/v1/auth/{name}", json=CREDENTIALS, trust_env=False
        ).status_code
        for name in ACCOUNT_ROUTES
    ]
    assert statuses == [404, 404, 404]


async def test_f1_serve_with_a_public_key_knows_whoever_a_token_names(
    foreign: ServerProcess,
) -> None:
    """F1、F7: 别处签发的用户 5，收得到消息。"""
    ann, ben = (Person(u, "", signed(KEY, "ES256", sub=str(u), aud=None)) for u in (4, 5))
    message_id = await send(foreign.base_url, ann, [ben])
    async with device(foreign.ws_url(5), ben) as phone:
        assert (await phone.next_message())["message_id"] == message_id


def test_f1_serve_knows_an_administrator_by_a_claim_deep_inside(foreign: ServerProcess) -> None:
    statuses = []
    for roles in (["offline_access"], ["offline_access", "admin"]):
        token = signed(KEY, "ES256", realm_access={"roles": roles})
        url = f"{foreign.base_url}/api/v1/stats"
        statuses.append(httpx.get(url, headers=bearer(token), trust_env=False).status_code)
    assert statuses == [403, 200]


def test_f1_serve_warns_once_that_any_audience_is_accepted(foreign: ServerProcess) -> None:
    lines = [line for line in foreign.output.splitlines() if "tokens_for_any_service" in line]
    assert len(lines) == 1
    assert "MEETING_PUSH_JWT_AUDIENCE" in lines[0]


@pytest.mark.parametrize(
    "command",
    [
        ("token", "--user-id", "2"),
        ("user", "create", "mallory"),
        ("user", "list"),
        ("send", "--to", "2", "--title", "t"),
        ("listen", "--user-id", "2"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_f1_the_command_line_makes_no_people_and_no_tokens(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    given = {"MEETING_PUSH_IDENTITY": "application"}
    result = meeting_push(*command, cwd=tmp_path, stdin="a long password\n", env=given)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
