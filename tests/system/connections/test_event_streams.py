"""没有 WebSocket 时，从外面看：发送、流、确认各在不同的进程；curl、httpx、aiohttp 读得懂。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import pytest

from tests.support.event_streams import Event, EventStream, event_stream
from tests.support.eventually import eventually
from tests.support.pair import ADMIN, presence
from tests.support.people import Frame, Person, api_of, delivery, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)

#: 在线状态写得快：``{connection_id, upto}`` 凭它找到握着连接的进程。
QUICK = {"presence_flush_ms": 10, "ack_flush_ms": 5}


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer
) -> Iterator[dict[str, ServerProcess]]:
    """一个 all，一个网关，一个 api，共用一个 Redis 与一个数据库。"""
    folder = tmp_path_factory.mktemp("streams")
    settings = {"key_prefix": f"{folder.name}:", **QUICK}
    with contextlib.ExitStack() as stack:
        yield {
            role: stack.enter_context(
                ServerProcess(folder, role=role, redis_url=redis7_server.url, settings=settings)
            )
            for role in ("all", "api", "gateway")
        }


@pytest.fixture
async def person(fleet: dict[str, ServerProcess]) -> Person:
    return await register(fleet["all"].base_url, f"u-{uuid4().hex[:12]}")


def url_of(server: ServerProcess, who: Person, query: str = "") -> str:
    return f"{server.base_url}/sse/user/{who.user_id}/messages{query}"


@contextlib.asynccontextmanager
async def stream(
    server: ServerProcess, who: Person, **headers: str
) -> AsyncIterator[tuple[EventStream, Frame]]:
    """已收到 welcome 的一条流。"""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with event_stream(url_of(server, who), {**who.headers, **named}) as one:
        welcome = await one.frame()
        assert welcome["type"] == "welcome", welcome
        yield one, welcome


async def acknowledge(server: ServerProcess, who: Person, **body: object) -> httpx.Response:
    async with api_of(server.base_url, who) as api:
        return await api.post("/acks", json=body)


async def until_delivered(server: ServerProcess, sender: Person, message_id: str) -> None:
    async def delivered() -> bool:
        return bool((await delivery(server.base_url, sender, message_id))["delivered"] == 1)

    await eventually(delivered)


@pytest.mark.parametrize("held", ["all", "gateway"])
@pytest.mark.parametrize("asked", ["all", "api"])
async def test_an_ack_by_ids_works_at_any_process(
    fleet: dict[str, ServerProcess], person: Person, held: str, asked: str
) -> None:
    async with stream(fleet[held], person) as (one, _):
        sent = await send(fleet["api"].base_url, person, [person])
        [message] = await one.messages(1)
        assert message["message_id"] == sent
        answer = await acknowledge(fleet[asked], person, message_ids=[sent, "0" * 26])
        assert answer.status_code == 200
        assert answer.json() == {"accepted": 1, "unknown": ["0" * 26]}
        await until_delivered(fleet["all"], person, sent)
        again = await acknowledge(fleet[asked], person, message_ids=[sent])
        assert again.json() == {"accepted": 1, "unknown": []}


@pytest.mark.parametrize("held", ["all", "gateway"])
@pytest.mark.parametrize("asked", ["all", "api"])
async def test_an_ack_up_to_a_seq_reaches_who_holds_the_connection(
    fleet: dict[str, ServerProcess], person: Person, held: str, asked: str
) -> None:
    async with stream(fleet[held], person) as (one, welcome):
        sent = [await send(fleet["api"].base_url, person, [person]) for _ in range(3)]
        messages = await one.messages(3)
        body = {"connection_id": welcome["connection_id"], "upto": messages[1]["seq"]}

        async def known() -> bool:
            seen = await presence(fleet["all"], person, person.user_id)
            return any(
                each["connection_id"] == welcome["connection_id"] for each in seen["connections"]
            )

        await eventually(known)
        answer = await acknowledge(fleet[asked], person, **body)
        assert (answer.status_code, answer.json()) == (200, {"accepted": 2, "unknown": []})
        for message_id in sent[:2]:
            await until_delivered(fleet["all"], person, message_id)
        assert (await delivery(fleet["all"].base_url, person, sent[2]))["delivered"] == 0
        again = await acknowledge(fleet[asked], person, **body)
        assert again.json() == {"accepted": 0, "unknown": []}


@pytest.mark.parametrize("asked", ["all", "api"])
async def test_an_ack_for_a_connection_that_is_not_his_is_409(
    fleet: dict[str, ServerProcess], person: Person, asked: str
) -> None:
    other = await register(fleet["all"].base_url, f"u-{uuid4().hex[:12]}")
    async with stream(fleet["gateway"], other) as (_, welcome):
        for connection_id in (welcome["connection_id"], "nonsense"):
            answer = await acknowledge(fleet[asked], person, connection_id=connection_id, upto=9)
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "unknown_connection"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message_ids": []},
        {"message_ids": ["x"]},
        {"upto": 1},
        {"connection_id": "c"},
        {"connection_id": "c", "upto": -1},
        {"message_ids": ["0" * 26], "upto": 1},
        {"message_ids": ["0" * 26] * 1001},
        {"message_ids": ["0" * 26], "more": 1},
    ],
)
async def test_an_ack_that_says_too_little_or_too_much_is_422(
    fleet: dict[str, ServerProcess], person: Person, body: Frame
) -> None:
    answer = await acknowledge(fleet["api"], person, **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


async def test_an_ack_needs_a_person(fleet: dict[str, ServerProcess], person: Person) -> None:
    nobody = Person(person.user_id, person.name, "nonsense")
    assert (await acknowledge(fleet["api"], nobody, message_ids=["0" * 26])).status_code == 401


async def test_a_websocket_acknowledges_what_a_stream_got_and_the_other_way_round(
    fleet: dict[str, ServerProcess], person: Person
) -> None:
    server = fleet["all"]
    async with (
        stream(server, person) as (one, _),
        device(server.ws_url(person.user_id), person) as phone,
    ):
        first = await send(server.base_url, person, [person])
        await one.messages(1)
        await phone.next_message()
        await phone.ack(first)
        await until_delivered(server, person, first)
        second = await send(server.base_url, person, [person])
        await one.messages(1)
        await acknowledge(server, person, message_ids=[second])
        await until_delivered(server, person, second)
    async with stream(server, person) as (_, welcome):
        assert welcome["pending"] == 0


@pytest.mark.parametrize("role", ["all", "gateway"])
async def test_a_withdrawal_that_waits_is_one_of_the_pending(
    fleet: dict[str, ServerProcess], person: Person, role: str
) -> None:
    server = fleet["all"]
    gone, kept = [await send(server.base_url, person, [person]) for _ in range(2)]
    async with api_of(server.base_url, person) as api:
        assert (await api.delete(f"/messages/{gone}")).status_code == 204

        async def both() -> bool:
            answer = await api.get(f"/users/{person.user_id}/offline-messages/count")
            return bool(answer.json()["count"] == 2)

        await eventually(both, 60)
    async with stream(fleet[role], person) as (one, welcome):
        assert welcome["pending"] == 2
        frames = [await one.frame() for _ in range(2)]
    told = [each for frame in frames for each in frame.get("messages", [frame])]
    assert {(each["type"], each["message_id"]) for each in told} == {
        ("new_message", kept),
        ("withdrawn", gone),
    }


async def test_it_is_a_device_like_any_other(
    fleet: dict[str, ServerProcess], person: Person
) -> None:
    server = fleet["gateway"]
    async with stream(server, person) as (one, welcome):

        async def online() -> bool:
            seen = await presence(fleet["all"], person, person.user_id)
            return bool(seen["online"])

        await eventually(online)
        async with api_of(fleet["api"].base_url, person) as api:
            path = f"/presence/users/{person.user_id}"
            [shown] = (await api.get(path)).json()["connections"]
            assert shown["transport"] == "sse"
            answer = await api.delete(f"{path}/connections/{welcome['connection_id']}")
            assert answer.status_code == 204
        assert await one.closed() == {"code": 4503, "name": "kicked"}


async def test_logging_out_ends_the_stream(fleet: dict[str, ServerProcess], person: Person) -> None:
    async with stream(fleet["gateway"], person) as (one, _):
        async with api_of(fleet["api"].base_url, person) as api:
            assert (await api.post("/auth/logout")).status_code == 204
        assert await one.closed() == {"code": 4502, "name": "revoked"}

    async def refused() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(url_of(fleet["gateway"], person), headers=person.headers)
        return answer.status_code == 401 and answer.json()["error"]["code"] == "revoked"

    assert await refused()


async def test_a_ticket_opens_one_stream(fleet: dict[str, ServerProcess], person: Person) -> None:
    async with api_of(fleet["all"].base_url, person) as api:
        ticket = (await api.post("/auth/ws-ticket")).json()["ticket"]
    url = url_of(fleet["gateway"], person, f"?ticket={ticket}")
    async with event_stream(url) as one:
        assert (await one.frame())["type"] == "welcome"
    async with event_stream(url) as again:
        assert again.response.status_code == 401


async def test_curl_reads_it(fleet: dict[str, ServerProcess], person: Person) -> None:
    sent = await send(fleet["api"].base_url, person, [person])
    command = ["curl", "-sN", "-H", f"authorization: Bearer {person.token}"]
    curl = await asyncio.create_subprocess_exec(
        *command, url_of(fleet["gateway"], person), stdout=asyncio.subprocess.PIPE
    )
    assert curl.stdout is not None
    try:
        async with asyncio.timeout(20):
            while sent.encode() not in (line := await curl.stdout.readline()):
                assert line, "the stream ended"
        assert line.startswith(b"data: {")
    finally:
        curl.terminate()
        await curl.communicate()


async def test_aiohttp_reads_it(fleet: dict[str, ServerProcess], person: Person) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    sent = await send(fleet["api"].base_url, person, [person])
    async with (
        aiohttp.ClientSession(headers=person.headers) as session,
        session.get(url_of(fleet["all"], person)) as response,
        asyncio.timeout(20),
    ):
        while sent.encode() not in await response.content.readline():
            pass


@pytest.mark.parametrize("role", ["all", "gateway"])
async def test_a_server_that_leaves_says_so_and_the_position_goes_on(
    role: str,
    fleet: dict[str, ServerProcess],
    person: Person,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """到另一个进程接着读：没有重复（都确认了），也没有漏。"""
    leaving, folder = fleet[role], fleet[role].directory
    prefix = {"key_prefix": f"{folder.name}:", "drain_window_s": 0.2, **QUICK}
    options = {"role": role, "redis_url": _redis_of(leaving), "settings": prefix}
    with ServerProcess(folder, **options) as server:  # type: ignore[arg-type]
        async with stream(server, person) as (one, _):
            first = await send(fleet["api"].base_url, person, [person])
            event = await _until_message(one)
            assert event.data["message_id"] == first
            stopping = asyncio.create_task(asyncio.to_thread(server.terminate))
            assert await one.closed() == {"code": 4000, "name": "server_draining"}
            assert await stopping == 0
    await acknowledge(fleet["api"], person, message_ids=[first])
    await until_delivered(fleet["all"], person, first)
    second = await send(fleet["api"].base_url, person, [person])
    assert event.id is not None
    async with stream(fleet["gateway"], person, Last_Event_ID=event.id) as (one, welcome):
        assert welcome["resumed"]
        [message] = await one.messages(1)
        assert message["message_id"] == second


async def _until_message(one: EventStream) -> Event:
    while True:
        event = await one.read()
        if event.data["type"] == "new_message":
            return event


def _redis_of(server: ServerProcess) -> str:
    options = list(server._options)
    return str(options[options.index("--redis-url") + 1])


async def test_a_broadcast_comes_and_is_acknowledged_at_a_process_without_sockets(
    fleet: dict[str, ServerProcess], person: Person
) -> None:
    async with stream(fleet["gateway"], person) as (one, _):
        async with api_of(fleet["api"].base_url, ADMIN) as api:
            answer = await api.post("/messages/broadcast", json={"title": "all", "content": "c"})
        assert answer.status_code == 202, answer.text
        message_id = answer.json()["message_id"]
        event = await _until_message(one)
        assert event.data["message_id"] == message_id
        acked = await acknowledge(fleet["api"], person, message_ids=[message_id])
        assert acked.json() == {"accepted": 1, "unknown": []}

    async def settled() -> bool:
        """下一条流不再有它：先说的是随后的一条。"""
        async with stream(fleet["gateway"], person) as (again, _):
            mark = await send(fleet["api"].base_url, person, [person])
            first, *_ = await again.messages(1)  # 上一次的确认也许还没有记下
            await acknowledge(fleet["api"], person, message_ids=[mark])
            return bool(first["message_id"] == mark)

    await eventually(settled, 20)
