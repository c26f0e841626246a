"""JavaScript 客户端对着真实的服务器，在 Node 里与在 Chromium 里。"""

from __future__ import annotations

import json
import time
from uuid import uuid4

import httpx
import pytest

from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, register, send
from tests.support.server_process import ServerProcess

from .agent import Agent, connected, listen, received, wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def person(server: ServerProcess) -> Person:
    return await register(server.base_url, f"user-{uuid4().hex[:12]}")


async def status(server: ServerProcess, person: Person, message_id: str) -> str:
    state = await delivery(server.base_url, person, message_id)
    return str(state["recipients"][0]["status"])


async def test_a_message_is_pushed_handled_and_acked(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person)
    await connected(agent)
    assert await agent.evaluate("client.state.transport") == "websocket"
    message = await send(server.base_url, person, [person])
    await received(agent, message)

    async def delivered() -> bool:
        return await status(server, person, message) == "delivered"

    await eventually(delivered, 60)


async def test_by_hand_nothing_is_acked_before_ack(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person, ack="manual")
    await connected(agent)
    message = await send(server.base_url, person, [person])
    await received(agent, message)
    assert await status(server, person, message) == "pending"
    await agent.evaluate("client.ack(got[0])")

    async def delivered() -> bool:
        return await status(server, person, message) == "delivered"

    await eventually(delivered, 60)


async def test_dlv_5_a_restart_of_the_server_loses_and_repeats_nothing(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person)
    await connected(agent)
    first = await send(server.base_url, person, [person])
    await received(agent, first)
    server.terminate()
    await wait_for(agent, "states.some((state) => state.name === 'disconnected')")
    server.start()
    second = await send(server.base_url, person, [person])
    await received(agent, first, second)
    welcome = "states.at(-1).name === 'connected'"
    assert await agent.evaluate(welcome)


async def test_an_expired_token_is_replaced(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    expired = json.dumps(sign(person.user_id, life_s=-60))
    token = f"({{ fresh }}) => fresh ? {json.dumps(person.token)} : {expired}"
    await listen(agent, person, token)
    await connected(agent)
    assert 4004 in await agent.evaluate("states.map((state) => state.code)")
    await received(agent, await send(server.base_url, person, [person]))


async def test_a_token_about_to_expire_is_replaced_without_a_cut(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    ending = json.dumps(sign(person.user_id, life_s=45))
    token = f"({{ fresh }}) => fresh ? {json.dumps(person.token)} : {ending}"
    await listen(agent, person, token)
    await agent.evaluate("void client.on('token_refreshed', () => { globalThis.renewed = true })")
    await wait_for(agent, "globalThis.renewed")
    names = await agent.evaluate("states.map((state) => state.name)")
    assert names == ["connecting", "connected"]


async def test_a_sleep_over_an_expired_token_and_another_server_loses_nothing(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    """醒来：套接字早没了，手里的令牌过期了，服务器换过了。每条正好一次，不拿过期的令牌一再去试。"""
    ends_at = time.time() + 6
    short, fresh = json.dumps(sign(person.user_id, life_s=6)), json.dumps(person.token)
    token = f"({{ fresh }}) => fresh && Date.now() > {int(ends_at * 1000)} ? {fresh} : {short}"
    await listen(agent, person, token)
    await connected(agent)
    first = await send(server.base_url, person, [person])
    await received(agent, first)
    await agent.sleep()
    missed = [await send(server.base_url, person, [person]) for _ in range(3)]
    server.terminate()
    server.start()
    missed += [await send(server.base_url, person, [person]) for _ in range(3)]
    await eventually(lambda: time.time() > ends_at + 1, 60)
    await agent.wake()
    await received(agent, first, *missed)
    refusals = await agent.evaluate("states.filter(({ code }) => code === 4004).length")
    assert refusals <= 2


async def test_a_wrong_token_is_the_end(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person, '"no.such.token"')
    await wait_for(agent, "client.state.final && client.state.code !== null")
    assert await agent.evaluate("[client.state.code, client.state.reason]") == [
        4500,
        "invalid_token",
    ]


async def test_a_kicked_device_stays_away_until_it_is_told(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person)
    await connected(agent)
    async with api_of(server.base_url, person) as api:

        async def there() -> list[dict[str, str]]:
            answer = await api.get(f"/presence/users/{person.user_id}")
            return list(answer.json()["connections"])

        (connection,) = await eventually(there, 60)
        path = f"/presence/users/{person.user_id}/connections/{connection['connection_id']}"
        kicked = await api.delete(path)
    assert kicked.status_code == httpx.codes.NO_CONTENT
    await wait_for(agent, "client.state.final")
    assert await agent.evaluate("client.state.code") == 4503
    await agent.evaluate("client.start()")
    await connected(agent)


async def test_rest_with_the_same_token(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person)
    await connected(agent)
    sent = await agent.evaluate(f"client.rest.send([{person.user_id}], 'hello', 'there')")
    await received(agent, sent["message_id"])
    inbox = await agent.evaluate("client.rest.inbox({ limit: 5 })")
    assert [item["title"] for item in inbox["items"]] == ["hello"]
    assert inbox["unread_count"] == 1
    one = f"client.rest.message({json.dumps(sent['message_id'])})"
    assert (await agent.evaluate(one))["content"] == "there"
    read = f"client.rest.markRead([{json.dumps(sent['message_id'])}])"
    assert (await agent.evaluate(read))["unread_count"] == 0
    state = await agent.evaluate(f"client.rest.delivery({json.dumps(sent['message_id'])})")
    assert state["total"] == 1
    await wait_for(agent, f"client.rest.presence({person.user_id}).then(({{ online }}) => online)")
    refused = "client.rest.send([999999999], 't', 'c').catch((error) => [error.code, error.status])"
    assert await agent.evaluate(refused) == ["unknown_recipients", 422]


async def test_who_is_watched_comes_and_goes(
    agent: Agent, server: ServerProcess, person: Person
) -> None:
    await listen(agent, person)
    await agent.evaluate(
        "{ globalThis.seen = []; client.on('presence', (frame) => void seen.push(frame));"
        f" client.watch([{person.user_id}]); client.status('busy') }}"
    )
    await wait_for(agent, "globalThis.seen.some(({ status }) => status === 'busy')")
