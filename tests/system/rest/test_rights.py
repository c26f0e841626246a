"""A17：谁可以做什么：契约的表里“谁”那一栏说的，服务器照做，一条路由不漏；谁可以发什么。"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from meeting_push.app import MeetingPush, create_app
from meeting_push.settings import load_settings
from tests.support.accounts import create_people, sign
from tests.support.citations import DOCS
from tests.support.people import Person, api_of, send
from tests.support.server_process import ServerProcess

from .conftest import ADMIN_ID

API: Final = "/api/v1"
#: 契约里的说法 → 谁进得去，谁进不去（都有令牌）；没有令牌的只进得去“谁都行”的。
WHO: Final[dict[str, tuple[str, str]]] = {
    "谁都行": ("stranger", ""),
    "用户": ("outsider", ""),
    "收件人": ("outsider", ""),  # 自己的收件箱，谁都有
    "管理员": ("admin", "owner guest outsider"),
    "本人、管理员": ("owner admin", "guest outsider"),
    "收件人、发送者": ("owner guest", "outsider"),
    "发送者、管理员": ("owner admin", "guest outsider"),
    "参与者、管理员": ("owner guest admin", "outsider"),
    "召开者、管理员": ("owner admin", "guest outsider"),
    "本人；召开者、管理员请别人": ("guest admin", "outsider"),
}
#: 一栏说不全的：登录与续期还没有令牌。
SAID_ELSEWHERE: Final = {"POST /auth/login": "谁都行", "POST /auth/refresh": "谁都行"}
#: 请求体要先合格，才轮到问是不是他的。
BODIES: Final[dict[str, dict[str, Any]]] = {
    "POST /meetings/{meeting_id}/participants": {"participant_ids": [1]},
    "POST /meetings/{meeting_id}/end": {},
}
#: 问的东西本来就没有：让进去的也得到 404。
NOT_THERE: Final = {
    "DELETE /presence/users/{user_id}/connections/{connection_id}",
    "POST /deliveries/failures/{message_id}/{user_id}/requeue",
    *(f"POST /alerts/{{alert_id}}/{verb}" for verb in ("acknowledge", "silence", "notes")),
    "GET /alerts/{alert_id}",
}
#: 不在 ``/api/v1`` 下的，都不要令牌，也不含任何人的事；WebSocket 与事件流由边缘认人。
OPEN: Final = {
    *("/", "/inbox", "/ops", "/docs", "/openapi.json", "/static/{name:path}"),
    *("/healthz", "/readyz", "/metrics"),
}
SOCKETS: Final = {
    *("/ws/user/{user_id}/messages", "/sse/user/{user_id}/messages"),
    *("/ws/meeting/{meeting_id}", "/{path:path}"),
}
FORGED: Final[list[dict[str, Any]]] = [
    {"message_type": "system"},
    {"message_type": "notification", "data": {"event": "meeting_ended", "meeting_id": "0" * 26}},
    {"message_type": "message", "data": {"x": 1, "event": "meeting_ended"}},
]


def stated() -> dict[str, str]:
    """调用 → 谁，照契约与会议的页；密钥的另有 ``tests/unit/router/test_security.py``。"""
    found: dict[str, str] = {}
    for page in ("contract.md", "meeting.md"):
        rows = re.findall(r"^\| (`[A-Z]+ /.*?) \| ([^|]*) \|", (DOCS / page).read_text(), re.M)
        for calls, who in rows:
            for call in re.findall(r"`((?:GET|POST|DELETE) /[\w/{}.-]*)", calls):
                name = re.sub(r"(/meetings/)\{id\}", r"\1{meeting_id}", call)
                found[name] = re.sub(r"（.*）|、密钥", "", who).strip()
    return found | SAID_ELSEWHERE


STATED: Final = stated()


@dataclass(frozen=True)
class Town:
    """``owner`` 给 ``guest`` 写了一条，召开了有他的会议；``outsider`` 与两样都无关。"""

    people: dict[str, Person]
    message_id: str
    meeting_id: str

    def path(self, call: str) -> str:
        """请人离开的，离开的是 ``guest``；别的“本人”是 ``owner``。"""
        about = self.people["guest" if "/participants/" in call else "owner"]
        return call.partition(" ")[2].format(
            user_id=about.user_id,
            message_id=self.message_id,
            meeting_id=self.meeting_id,
            connection_id="a" * 24,
            alert_id="0" * 26,
        )


async def found(server: ServerProcess) -> Town:
    url = f"sqlite:///{server.directory}/data/meeting-push.db"
    owner, guest, outsider = await create_people(url, 3)
    message_id = await send(server.base_url, owner, [guest])
    async with api_of(server.base_url, owner) as api:
        meeting = {"title": "t", "participant_ids": [guest.user_id]}
        meeting_id = (await api.post("/meetings", json=meeting)).json()["meeting_id"]
    admin = Person(ADMIN_ID, "admin", sign(ADMIN_ID, "admin", "admin"))
    people = {"owner": owner, "guest": guest, "outsider": outsider, "admin": admin}
    return Town(people, message_id, meeting_id)


@pytest.fixture(scope="module")
def town(server: ServerProcess) -> Town:
    """给被拒绝的：什么也不会变，大家共用。"""
    return asyncio.run(found(server))


async def ask(server: ServerProcess, town: Town, call: str, who: str) -> httpx.Response:
    one = town.people.get(who)
    async with httpx.AsyncClient(base_url=f"{server.base_url}{API}", trust_env=False) as api:
        return await api.request(
            call.partition(" ")[0],
            town.path(call),
            headers=one.headers if one else {},
            json=BODIES.get(call, {}) if call.startswith("POST") else None,
        )


def test_a17_every_route_says_who_may(tmp_path: Path) -> None:
    """A17: whoever adds a route says so in the contract, in words this page understands."""
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1")
    routes = create_app(MeetingPush(settings, identity="accounts")).router.routes
    pairs = {
        (method, str(getattr(route, "path", "")))
        for route in routes
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
        # 没有方法的 ``Route`` 只答 405
        if isinstance(route, APIRoute) or not isinstance(route, Route)
    }
    calls = {f"{method} {path.removeprefix(API)}" for method, path in pairs if API in path}
    assert calls == STATED.keys()
    assert set(STATED.values()) == WHO.keys()
    assert {path for _, path in pairs if API not in path} == OPEN | SOCKETS


@pytest.mark.parametrize("call", sorted(STATED))
async def test_a17_who_does_not_say_who_he_is_gets_in_where_anybody_may(
    server: ServerProcess, town: Town, call: str
) -> None:
    """A17: no token, no answer but 401, whatever the body."""
    answer = await ask(server, town, call, "stranger")
    assert (answer.status_code == 401) == (STATED[call] != "谁都行"), answer.text


@pytest.mark.parametrize(
    ("call", "who"),
    [(call, who) for call in sorted(STATED) for who in WHO[STATED[call]][1].split()],
)
async def test_a17_whom_the_contract_does_not_name_is_refused(
    server: ServerProcess, town: Town, call: str, who: str
) -> None:
    """A17: 403; or 404, where one may not even know that it is there."""
    answer = await ask(server, town, call, who)
    assert answer.json()["error"]["code"] in ("forbidden", "not_found"), answer.text


@pytest.mark.parametrize(
    ("call", "who"),
    [(call, who) for call in sorted(STATED) for who in WHO[STATED[call]][0].split()],
)
async def test_a17_whom_the_contract_names_is_let_in(
    server: ServerProcess, call: str, who: str
) -> None:
    """A17: what he asks may be wrong, he is not."""
    answer = await ask(server, await found(server), call, who)
    refusals = {403, 405} if call in NOT_THERE else {403, 404, 405}
    assert answer.status_code < 500, answer.text
    assert answer.status_code not in refusals | ({401} if who != "stranger" else set())


@pytest.mark.parametrize("fields", FORGED, ids=str)
async def test_a17_a_user_can_not_speak_as_the_system(
    server: ServerProcess, alice: Person, bob: Person, fields: dict[str, Any]
) -> None:
    """A17: neither alone nor in a batch; nothing is stored."""
    draft = {"recipient_ids": [bob.user_id], "title": "forged", "content": "c", **fields}
    good = {"recipient_ids": [bob.user_id], "title": "forged", "content": "c"}
    async with api_of(server.base_url, alice) as api:
        answers = [
            await api.post("/messages", json=draft),
            await api.post("/messages/batch", json={"messages": [good, draft]}),
        ]
    async with api_of(server.base_url, bob) as api:
        titles = [one["title"] for one in (await api.get("/messages")).json()["items"]]
    assert [a.json()["error"]["code"] for a in answers] == ["forbidden"] * 2
    assert "forged" not in titles


async def test_a17_an_administrator_may(server: ServerProcess, admin: Person, bob: Person) -> None:
    """A17: the contract: admins and keys."""
    body = {"recipient_ids": [bob.user_id], "title": "t", "content": "c", "message_type": "system"}
    async with api_of(server.base_url, admin) as api:
        assert (await api.post("/messages", json=body)).status_code == 202
