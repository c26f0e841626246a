"""A1、A14：一个人一下子问很多，别人的一个请求不排在他的全部后面。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable, MutableMapping, Sequence
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from msgspec import Struct
from pydantic import BaseModel

from meeting_push.errors import BadCredentialsError, RateLimitedError
from meeting_push.model import Principal
from meeting_push.router import turns as turns_module
from meeting_push.router.contract_route import ContractRoute, contract_router
from meeting_push.router.json_body import JsonBody
from meeting_push.router.security import PRINCIPAL
from meeting_push.router.turns import (
    AT_ONCE,
    BYTES_PER_REFUSAL,
    DEAR,
    LEAST,
    MOST_READS,
    MOST_READS_OF_STRANGERS,
    LargeTurn,
    LargeTurns,
    Turns,
)
from tests.support.clocks import Monotonic


class Credentials(BaseModel):
    username: str


class Office:
    """办事的：``asking`` 起一个请求，轮到了记进 ``served``，``finish`` 办完最早的一个。"""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.served: list[Hashable] = []
        self._running: list[Hashable] = []

    async def asking(self, key: Hashable, times: int = 1) -> list[asyncio.Task[None]]:
        tasks = [asyncio.ensure_future(self._one(key)) for _ in range(times)]
        await asyncio.sleep(0)
        return tasks

    async def finish(self, times: int = 1) -> None:
        for _ in range(times):
            self._turns.give_back(self._running.pop(0))
            await asyncio.sleep(0)

    async def _one(self, key: Hashable) -> None:
        await self._turns.take(key)
        self.served.append(key)
        self._running.append(key)


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic(0.0)


@pytest.fixture
def office(clock: Monotonic) -> Office:
    return Office(Turns(clock=clock))


async def test_one_alone_has_all_the_places(office: Office) -> None:
    await office.asking("flood", AT_ONCE + 10)
    assert office.served == ["flood"] * AT_ONCE


async def test_who_comes_later_is_next_however_many_wait(office: Office) -> None:
    await office.asking("flood", AT_ONCE + 1_000)
    await office.asking("bob")
    await office.finish()
    assert office.served[AT_ONCE:] == ["bob"]


async def test_the_more_people_ask_the_fewer_places_has_each(office: Office) -> None:
    for person in range(AT_ONCE):
        await office.asking(person)
    await office.finish(AT_ONCE)
    await office.asking("flood", AT_ONCE)
    assert office.served[AT_ONCE:] == ["flood"] * LEAST


async def test_who_has_not_asked_for_a_while_does_not_count(
    office: Office, clock: Monotonic
) -> None:
    for person in range(AT_ONCE):
        await office.asking(person)
    await office.finish(AT_ONCE)
    clock.now += 3
    await office.asking("flood", AT_ONCE)
    assert office.served[AT_ONCE:] == ["flood"] * AT_ONCE


async def test_who_left_while_waiting_takes_no_place(office: Office) -> None:
    tasks = await office.asking("flood", AT_ONCE + 1)
    tasks[-1].cancel()
    await asyncio.sleep(0)
    await office.asking("bob")
    await office.finish(AT_ONCE + 1)
    assert office.served == ["flood"] * AT_ONCE + ["bob"]


@contextlib.asynccontextmanager
async def asking(router: APIRouter, turns: Turns) -> AsyncIterator[httpx.AsyncClient]:
    """同一个陌生的地址来问。"""
    app = FastAPI()
    for route in router.routes:
        assert isinstance(route, ContractRoute)
        route.turns = turns
        app.router.routes.append(route)
    transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        yield client


async def test_only_refusals_keep_their_pace() -> None:
    """A8、A14：拒绝的回答等到该给了才给，做成了的不问；键是地址，通过过认证的是他自己。"""
    refused: list[tuple[Hashable, float]] = []

    def note(key: Hashable, cost: float) -> float:
        refused.append((key, cost))
        return 0

    router = contract_router()

    @router.get("/thing")
    async def thing(number: int) -> int:
        return number

    async with asking(router, Turns(refusal_delay_s=note)) as client:
        assert (await client.get("/api/v1/thing?number=1")).status_code == 200
        assert refused == []
        assert (await client.get("/api/v1/thing?number=x")).status_code == 422
        assert refused == [("10.0.0.1", 1)]
        assert (await client.put("/api/v1/thing")).status_code == 405
    assert refused == [("10.0.0.1", 1)] * 2


async def test_a14_a_refused_login_is_dear() -> None:
    """A14: 一次猜错的密码费一次散列：抵别处的十次拒绝，一阵里能费的就少。"""
    costs: list[float] = []

    def note(_key: Hashable, cost: float) -> float:
        costs.append(cost)
        return 0

    router = contract_router()

    @router.post("/login")
    async def login(body: Credentials) -> str:
        raise BadCredentialsError(body.username)

    async with asking(router, Turns(refusal_delay_s=note)) as client:
        answer = await client.post("/api/v1/login", json={"username": "ann"})
    assert (answer.status_code, costs) == (401, [DEAR])


@pytest.mark.parametrize(
    ("length", "cost"),
    [("10", 1), (str(8 * BYTES_PER_REFUSAL), 9), ("x", 1), ("9" * 400, 1)],
    ids=["small", "large", "no number", "not meant"],
)
async def test_a1_a_large_body_that_is_refused_is_dear(length: str, cost: int) -> None:
    """A1: 送来一兆白费的，抵得多：一阵里能送的就少。"""
    costs: list[float] = []

    def note(_key: Hashable, cost: float) -> float:
        costs.append(cost)
        return 0

    router = contract_router()

    @router.post("/thing")
    async def thing(_body: Annotated[Struct, Depends(JsonBody(Struct))]) -> str:
        raise RateLimitedError("too much")

    async with asking(router, Turns(refusal_delay_s=note)) as client:
        headers = {"content-type": "application/json", "content-length": length}
        answer = await client.post("/api/v1/thing", content=b"{}", headers=headers)
    assert answer.status_code in (413, 429)
    assert costs == [cost]


async def test_a14_a_login_waits_neither_for_registrations_nor_for_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A14: 同一个地址的登录、注册各排各的；等着线程里算密码的让出位子。"""
    monkeypatch.setattr(turns_module, "YIELD_S", 1_000)
    router, never = contract_router(), asyncio.Event()

    @router.post("/register")
    @router.post("/login")
    async def credentials(body: Credentials) -> str:
        if body.username == "held":
            await never.wait()
        return body.username

    async with asking(router, Turns(at_once=LEAST)) as client:
        held = [
            asyncio.ensure_future(client.post(f"/api/v1/{path}", json={"username": "held"}))
            for path in ("register", "login")
            for _ in range(4 * LEAST)
        ]
        ann = client.post("/api/v1/login", json={"username": "ann"})
        assert (await asyncio.create_task(ann)).json() == "ann"
        never.set()
        await asyncio.gather(*held)


async def test_a14_registrations_fill_their_own_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YIELD_S", "THREAD_YIELD_S"):
        monkeypatch.setattr(turns_module, name, 1_000)
    router, never = contract_router(), asyncio.Event()

    @router.post("/register")
    async def register(body: Credentials) -> str:
        await never.wait()
        return body.username

    @router.post("/login")
    async def login(body: Credentials) -> str:
        return body.username

    async with asking(router, Turns()) as client:
        before = await client.post("/api/v1/login", json={"username": "ann"})  # 有两队在问
        held = [
            asyncio.ensure_future(client.post("/api/v1/register", json={"username": "held"}))
            for _ in range(AT_ONCE)
        ]
        ann = client.post("/api/v1/login", json={"username": "ann"})
        answer = await asyncio.create_task(ann)
        assert (before.status_code, answer.status_code) == (200, 200)
        never.set()
        await asyncio.gather(*held)


async def test_a8_many_who_register_at_once_leave_the_others_their_login() -> None:
    """A8: 一个地址上几百个注册同时来，后面的人的登录排着队，不是 429：它们不是读。"""
    router = contract_router()

    @router.post("/login")
    async def login(body: Credentials) -> str:
        await asyncio.sleep(0)
        return body.username

    async with asking(router, Turns()) as client:
        logins = (
            client.post("/api/v1/login", json={"username": "ann"})
            for _ in range(2 * MOST_READS_OF_STRANGERS)
        )
        answers = await asyncio.gather(*logins)
    assert {one.status_code for one in answers} == {200}


async def test_a14_who_left_is_not_kept_waiting() -> None:
    """A14: 被拒绝而已经走了的，不再留着等那几秒。"""
    router = contract_router()

    @router.get("/thing")
    async def thing(number: int) -> int:
        return number

    [route] = router.routes
    assert isinstance(route, ContractRoute)
    route.turns = Turns(refusal_delay_s=lambda _key, _cost: 1_000)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/thing",
        "query_string": b"number=x",
        "headers": [],
        "client": ("10.0.0.1", 1),
    }
    statuses: list[object] = []
    app = FastAPI()
    app.router.routes.append(route)

    async def gone() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.append(message.get("status"))

    await app(scope, gone, send)
    assert statuses[0] == 422


async def test_every_request_is_served_at_last(office: Office) -> None:
    for person in range(5):
        await office.asking(person, 100)
    await office.finish(500)
    assert sorted(office.served) == sorted(list(range(5)) * 100)  # type: ignore[type-var]


# ── 一个人至多问这么多 ─────────────────────────────────────────────────────────


def test_a14_one_persons_reads_at_once_are_bounded(clock: Monotonic) -> None:
    """A14: 排了队就走的请求还在办；几百个一起等数据库的连接，别人都等到超时。"""
    turns = Turns(clock=clock)
    for _ in range(MOST_READS_OF_STRANGERS):
        turns.begin_reading("address")
    with pytest.raises(RateLimitedError):
        turns.begin_reading("address")
    turns.begin_reading("another")
    turns.end_reading("address", None)
    turns.begin_reading("address")


def test_a14_who_is_known_has_a_bound_of_his_own(clock: Monotonic) -> None:
    turns = Turns(clock=clock)
    scope = {"type": "http", "headers": [(b"authorization", b"Bearer x")], "client": ("a", 1)}
    request = Request(scope)
    assert turns.key(request) == "a"
    turns.trust(request, 7)
    for _ in range(MOST_READS):
        turns.begin_reading(turns.key(request))
    with pytest.raises(RateLimitedError):
        turns.begin_reading(turns.key(request))
    turns.begin_reading("a")


def test_several_tokens_of_one_person_are_one_person(clock: Monotonic) -> None:
    turns, keys = Turns(clock=clock), set()
    for number in range(3):
        token = f"Bearer {number}".encode()
        scope = {"type": "http", "headers": [(b"authorization", token)], "client": ("a", 1)}
        turns.trust(Request(scope), 7)
        keys.add(turns.key(Request(scope)))
    assert len(keys) == 1


@pytest.mark.parametrize("others", [(), ("bob",)])
async def test_a_person_alone_reads_as_fast_as_he_can_among_others_he_rests(
    clock: Monotonic, others: Sequence[str]
) -> None:
    turns = Turns(clock=clock, large=LargeTurns(clock))
    for person in ("flood", *others):
        await turns.take(person)
        turns.give_back(person)
    for _ in range(2):
        turns.begin_reading("flood")
    waited = False
    for _ in range(100):
        waited = waited or await turns.keep_pace("flood")
    assert waited == bool(others)


# ── 大的一次一个 ───────────────────────────────────────────────────────────────


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a4_large_work_is_done_one_at_a_time_and_in_turn(clock: Monotonic) -> None:
    """A4: 五十批一千条同时来，别人的一批不排在它们后面。"""
    large = LargeTurns(clock)
    served: list[str] = []

    async def work(key: str) -> None:
        turn = await large.take(key)
        served.append(key)
        turn.done()

    await asyncio.gather(*(work(key) for key in ("flood", "flood", "flood", "bob")))
    assert served == ["flood", "flood", "bob", "flood"]


async def test_a4_after_large_work_there_is_a_rest_for_the_others(clock: Monotonic) -> None:
    large = LargeTurns(clock)
    turn = await large.take("flood")
    clock.now += 0.5
    turn.done()
    waiting = asyncio.create_task(large.take("bob"))
    await settle()
    assert not waiting.done()
    waiting.cancel()


async def test_large_work_that_waits_for_a_dependency_keeps_nobody(
    clock: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.router.turns.MOST_WORK_S", 0.01)
    large = LargeTurns(clock)
    turn = await large.take("stuck")
    (await large.take("bob")).done()
    turn.done()
    (await large.take("carol")).done()


class Thing(Struct):
    text: str


@pytest.mark.parametrize(
    ("role", "admins_too", "in_line"),
    [
        ("user", False, True),
        ("admin", False, False),
        ("admin", True, True),
    ],
)
async def test_large_bodies_stand_in_line_the_administrators_where_anybody_may_flood(
    clock: Monotonic, role: str, admins_too: bool, in_line: bool
) -> None:
    """说了又说的 Alertmanager 用的是管理员的令牌：大的请求体也一个一个地办。"""

    class Line(LargeTurns):
        taken = 0

        async def take(self, key: Hashable) -> LargeTurn:
            self.taken += 1
            return await super().take(key)

    router = contract_router()

    def asks(request: Request) -> None:
        request.scope[PRINCIPAL] = Principal(7, role, 0, 2**50)

    @router.post("/thing", dependencies=[Depends(asks)])
    async def thing(
        body: Thing = Depends(JsonBody(Thing, admins_too=admins_too)),  # noqa: B008
    ) -> int:
        return len(body.text)

    [route] = router.routes
    assert isinstance(route, ContractRoute)
    line = Line(clock)
    route.turns = Turns(large=line)
    app = FastAPI()
    app.router.routes.append(route)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        answer = await client.post("/api/v1/thing", json={"text": "x" * 20_000})
    assert answer.json() == 20_000
    assert line.taken == int(in_line)
