"""只有浏览器里才有的：离线、看不见的标签页、重新载入、几个标签页一条连接。"""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.eventually import eventually
from tests.support.people import Person, api_of, register, send
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser

from .agent import PageAgent, connected, listen, received, wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def person(server: ServerProcess) -> Person:
    return await register(server.base_url, f"user-{uuid4().hex[:12]}")


async def one_socket(server: ServerProcess, person: Person) -> None:
    async with api_of(server.base_url, person) as api:

        async def only_one() -> bool:
            answer = await api.get(f"/presence/users/{person.user_id}")
            return bool(answer.json()["connection_count"] == 1)

        await eventually(only_one, 60)


async def offline(tab: PageAgent, away: bool) -> None:
    await tab.page.call("Network.enable")
    await tab.page.call(
        "Network.emulateNetworkConditions",
        offline=away,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )


async def test_offline_and_online_again(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    await listen(tab, person, probeAfterMs=200)
    await connected(tab)
    await offline(tab, True)
    await tab.evaluate("client.say({ type: 'heartbeat', timestamp: 1, connection_id: 'another' })")
    await tab.evaluate("void window.dispatchEvent(new Event('offline'))")
    missed = await send(server.base_url, person, [person])
    await offline(tab, False)
    await received(tab, missed)
    await connected(tab)


async def test_a_reload_goes_on_from_the_position_in_local_storage(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    await listen(tab, person, store="local")
    await connected(tab)
    first = await send(server.base_url, person, [person])
    await received(tab, first)
    device = await tab.evaluate("client.deviceId")
    await wait_for(tab, f"Object.values(localStorage).some((text) => text.includes('{first}'))")
    await tab.page.call("Page.reload")
    await wait_for(tab, "globalThis.client === undefined && document.readyState === 'complete'")
    second = await send(server.base_url, person, [person])
    await tab.load(server)
    await listen(tab, person, store="local")
    await received(tab, second)
    assert await tab.evaluate("[client.deviceId, globalThis.resumed]") == [device, True]


async def two_tabs(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> tuple[PageAgent, PageAgent]:
    tabs = []
    for _ in range(2):
        tab = await PageAgent.open(await browser.page(), server, origin)
        await listen(tab, person, shared=True)
        await connected(tab)
        tabs.append(tab)
    return tabs[0], tabs[1]


async def test_two_tabs_share_one_socket(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> None:
    leader, follower = await two_tabs(browser, server, origin, person)
    assert [await tab.evaluate("client.leading") for tab in (leader, follower)] == [True, False]
    await one_socket(server, person)
    message = await send(server.base_url, person, [person])
    await received(leader, message)
    await received(follower, message)
    await follower.evaluate(
        "{ globalThis.seen = []; client.on('presence', (frame) => void seen.push(frame));"
        f" client.watch([{person.user_id}]) }}"
    )
    await wait_for(follower, "globalThis.seen.length > 0")


async def test_when_the_tab_that_holds_the_socket_closes_another_takes_over(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> None:
    leader, follower = await two_tabs(browser, server, origin, person)
    first = await send(server.base_url, person, [person])
    await received(leader, first)
    await received(follower, first)
    await leader.page.call("Page.navigate", url="about:blank")
    await wait_for(follower, "client.leading")
    second = await send(server.base_url, person, [person])
    await received(follower, first, second)
    await one_socket(server, person)


async def test_a_tab_that_stops_hands_over_and_can_come_back(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> None:
    leader, follower = await two_tabs(browser, server, origin, person)
    await leader.evaluate("client.stop()")
    await wait_for(follower, "client.leading && client.state.name === 'connected'")
    await leader.evaluate("client.start()")
    await connected(leader)
    assert await leader.evaluate("client.leading") is False
    message = await send(server.base_url, person, [person])
    await received(leader, message)
    await received(follower, message)


async def test_a_leader_that_is_stuck_loses_the_socket_to_the_tab_in_view(
    browser: Browser, server: ServerProcess, origin: str, person: Person
) -> None:
    """冻住的标签页既不答话，也不放手。"""
    leader, follower = await two_tabs(browser, server, origin, person)
    await leader.sleep()
    await follower.evaluate("void document.dispatchEvent(new Event('visibilitychange'))")
    await wait_for(follower, "client.leading && client.state.name === 'connected'")
    message = await send(server.base_url, person, [person])
    await received(follower, message)


async def test_without_web_locks_each_tab_has_its_own_socket(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    await tab.evaluate("void Object.defineProperty(navigator, 'locks', { value: undefined })")
    await listen(tab, person, shared=True)
    await connected(tab)
    assert await tab.evaluate("client.leading") is True


async def test_a_hidden_page_beats_from_a_worker(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    """页面自己的定时器节流到永远：心跳照样到，连接照样在。"""
    await tab.evaluate(
        "{ const real = setTimeout; const held = (act, ms) => ms < 100 ? real(act, ms) : 0;"
        " globalThis.setTimeout = held;"
        " Object.defineProperty(document, 'visibilityState', { value: 'hidden' }) }"
    )
    await listen(tab, person)
    await tab.evaluate(
        "void client.on('heartbeat_ack', () => { globalThis.beats = (globalThis.beats ?? 0) + 1 })"
    )
    await wait_for(tab, "globalThis.beats >= 2", 60)
    assert await tab.evaluate("states.filter(({ name }) => name === 'connected').length") == 1
