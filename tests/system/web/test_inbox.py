"""收件箱页面，像人一样用：真实的浏览器，真实的服务器。"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, device, register, send
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser
from tests.system.web.steps import (
    FIRST_ROW,
    LIVE,
    badge,
    live_inbox,
    open_inbox,
    open_link,
    sign_in,
    wait_for_badge,
)

pytestmark = pytest.mark.timeout(120)  # 冷启动的浏览器与服务器，退避也是真的


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await register(server.base_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    """每个测试一个新的收件人：别的测试的消息不在他的收件箱里。"""
    return await register(server.base_url, f"bob-{uuid4().hex[:12]}")


# ── 登录 ─────────────────────────────────────────────────────────────────────


async def test_a_wrong_password_shows_an_error(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    page = await browser.page()
    await sign_in(page, server, bob.name, password="not his password")
    await page.wait_for_text("#signin-error", "User name or password is wrong.")
    assert await page.text("#app") == ""


async def test_a_newcomer_registers_and_is_in(server: ServerProcess, browser: Browser) -> None:
    page = await browser.page()
    await open_inbox(page, server)
    await page.click("#signin-switch")
    await page.fill("#username", "newcomer")
    await page.fill("#password", "correct horse battery")
    await page.click("#signin-submit")
    await page.wait_for(LIVE)
    assert await page.text("#you-name") == "newcomer"
    await page.wait_for_text("#list-empty", "No messages yet")


async def test_a_taken_name_is_explained(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    page = await browser.page()
    await open_inbox(page, server)
    await page.click("#signin-switch")
    await page.fill("#username", bob.name)
    await page.fill("#password", "correct horse battery")
    await page.click("#signin-submit")
    await page.wait_for_text("#signin-error", "This user name is taken.")


async def test_a_token_in_the_fragment_signs_in_and_disappears_from_the_address(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    page = await browser.page()
    await open_link(page, server, bob.token, bob.user_id)
    await page.wait_for(LIVE)
    assert await page.text("#you-name") == bob.name
    assert await page.evaluate("location.href") == f"{server.base_url}/inbox"


async def test_f1_a_pasted_token_opens_the_inbox_and_stays_in_the_tab(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    """F1: 没有账号的服务器，收件箱也进得去。"""
    page = await browser.page()
    await open_inbox(page, server)
    await page.evaluate("document.querySelector('#token-entry').open = true")
    await page.fill("#token", "Bearer nonsense")
    await page.click("#token-submit")
    await page.wait_for_text("#signin-error", "does not accept this sign-in")
    await page.fill("#token", f"Bearer {bob.token}")
    await page.click("#token-submit")
    await page.wait_for(LIVE)
    assert await page.text("#you-name") == bob.name
    kept = "JSON.stringify({...localStorage}) + location.href + document.cookie"
    assert bob.token not in await page.evaluate(kept)


@pytest.mark.parametrize("agreed", [False, True])
async def test_a17_a_link_does_not_silently_replace_who_is_signed_in(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person, agreed: bool
) -> None:
    """A17: anybody can hand out such a link; who is in is asked first."""
    page = await browser.page()
    await open_link(page, server, bob.token, bob.user_id)
    await page.wait_for(LIVE)
    answer = str(agreed).lower()
    await page.evaluate(f"window.confirm = text => (window.asked = text, {answer})")
    await page.evaluate(f"location.hash = 'token={alice.token}&user={alice.user_id}'")
    await page.wait_for("window.asked")
    await page.wait_for_text("#you-name", alice.name if agreed else bob.name)
    assert await page.evaluate("location.hash") == ""


async def test_a_reload_keeps_the_person_signed_in_and_sign_out_ends_it(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    page = await browser.page()
    await sign_in(page, server, bob.name)
    await page.wait_for(LIVE)
    await page.open(f"{server.base_url}/inbox?again")
    await page.wait_for(LIVE)
    await page.click("#sign-out")
    await page.wait_for_text("#signin-title", "Sign in")
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_duplicated_tab_leaves_the_refresh_token_to_the_first(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    """它只能用一次：两个标签页各用一次，会被当作失窃而吊销整个会话。"""
    kept = "sessionStorage.getItem('meeting-push.session')"
    refresh = f"JSON.parse({kept}).refreshToken"
    first, copy = await browser.page(), await browser.page()
    await sign_in(first, server, bob.name)
    await first.wait_for(LIVE)
    await open_inbox(copy, server)
    session = json.dumps(await first.evaluate(kept))
    await copy.evaluate(f"sessionStorage.setItem('meeting-push.session', {session})")
    await copy.open(f"{server.base_url}/inbox?copy")
    await copy.wait_for(LIVE)
    await copy.wait_for(f"{refresh} === null")
    assert await first.evaluate(refresh)


async def test_the_words_follow_the_browsers_language(
    server: ServerProcess, browser: Browser
) -> None:
    page = await browser.page(language="zh-CN")
    await open_inbox(page, server)
    await page.wait_for_text("#signin-title", "登录")
    assert await page.evaluate("document.documentElement.lang") == "zh-CN"


async def test_both_languages_have_every_word(server: ServerProcess, browser: Browser) -> None:
    page = await browser.page()
    await open_inbox(page, server)
    en, zh, used = await page.evaluate(
        """import('/static/words.js').then(({dictionaries: {en, zh}}) => [
          Object.keys(en), Object.keys(zh),
          [...document.querySelectorAll('[data-say],[data-say-label],[data-say-hint]')].flatMap(
            ({dataset: d}) => [d.say, d.sayLabel, d.sayHint].filter(Boolean))])"""
    )
    assert en == zh
    assert set(used) <= set(en)


# ── 收 ───────────────────────────────────────────────────────────────────────


async def test_a_message_arrives_in_both_tabs_without_a_reload(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    tabs = [await live_inbox(browser, server, bob) for _ in range(2)]
    await send(server.base_url, alice, [bob], title="Lunch?", content="Noodles at noon")
    for tab in tabs:
        await tab.wait_for_text(FIRST_ROW, "Lunch?")
        await wait_for_badge(tab, 1)
        assert await tab.evaluate("document.title") == "(1) Inbox"
        assert tab.problems == []


async def test_reading_in_one_tab_corrects_the_badge_in_the_other(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    first, second = [await live_inbox(browser, server, bob) for _ in range(2)]
    for title in ("one", "two", "three"):
        await send(server.base_url, alice, [bob], title=title)
    for tab in (first, second):
        await wait_for_badge(tab, 3)
    await first.click(f"{FIRST_ROW} button")
    for tab in (first, second):
        await wait_for_badge(tab, 2)
    await second.wait_for(f"!document.querySelector('{FIRST_ROW} .unread')")
    await second.click("#read-all")
    for tab in (first, second):
        await wait_for_badge(tab, 0)


async def test_the_badge_is_what_the_record_says(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    for number in range(3):
        await send(server.base_url, alice, [bob], title=str(number))
    page = await live_inbox(browser, server, bob)
    async with api_of(server.base_url, bob) as api:
        inbox = (await api.get("/messages")).json()
    await wait_for_badge(page, inbox["unread_count"])
    assert await badge(page) == 3


async def test_markup_in_a_message_stays_text(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await live_inbox(browser, server, bob)
    title = "<script>window.pwned = 1</script>"
    content = "<img src=x onerror='window.pwned = 2'>"
    await send(server.base_url, alice, [bob], title=title, content=content)
    await page.wait_for_text(FIRST_ROW, title)
    await page.click(f"{FIRST_ROW} button")
    assert await page.text("#reader-title") == title
    assert await page.text("#reader-body") == content
    assert await page.evaluate("window.pwned ?? null") is None
    assert page.problems == []


async def test_an_urgent_message_is_marked_and_announced(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await live_inbox(browser, server, bob)
    await send(server.base_url, alice, [bob], title="Fail-over", priority=9)
    await page.wait_for_text(f"{FIRST_ROW} .urgent-mark", "Urgent")
    said = await page.evaluate("document.querySelector('#announce-urgent').textContent")
    assert said == "Urgent message from alice: Fail-over"


async def test_what_the_page_shows_is_acknowledged(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await live_inbox(browser, server, bob)
    message_id = await send(server.base_url, alice, [bob])
    await page.wait_for(f"Boolean(document.querySelector('[data-id=\"{message_id}\"]'))")

    async def delivered() -> bool:
        return bool((await delivery(server.base_url, alice, message_id))["delivered"] == 1)

    await eventually(delivered)


async def test_older_messages_come_page_by_page(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    drafts = [
        {"recipient_ids": [bob.user_id], "title": f"number {n}", "content": ""} for n in range(35)
    ]
    async with api_of(server.base_url, alice) as api:
        assert (await api.post("/messages/batch", json={"messages": drafts})).status_code == 202
    async with device(server.ws_url(bob.user_id), bob) as phone:  # 别的设备已收下，页面只靠 REST
        for _ in drafts:
            await phone.ack((await phone.next_message())["message_id"])
        await phone.round_trip()
    page = await live_inbox(browser, server, bob)
    await page.click("#load-more")
    await page.wait_for("document.querySelectorAll('#messages > li').length === 35")
    assert await page.text("#load-more") == ""


async def test_the_keyboard_alone_opens_and_closes_a_message(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    for title in ("older", "newer"):
        await send(server.base_url, alice, [bob], title=title)
    page = await live_inbox(browser, server, bob)
    await page.wait_for("document.querySelectorAll('#messages > li').length === 2")
    await page.evaluate(f"document.querySelector('{FIRST_ROW} button').focus()")
    await page.press("ArrowDown")
    await page.press("Enter")
    await page.wait_for_text("#reader-title", "older")
    await page.press("Escape")
    await page.wait_for("document.activeElement.closest('li')?.innerText.includes('older')")


# ── 写 ───────────────────────────────────────────────────────────────────────


async def test_the_sender_watches_the_delivery_happen(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await live_inbox(browser, server, alice)
    await page.click("#compose")
    await page.fill("#compose-recipients", f"{bob.user_id}， {bob.user_id}")
    await page.fill("#compose-subject", "Release notes")
    await page.fill("#compose-content", "Please read.")
    await page.click("#compose-send")
    await page.wait_for_text("#delivery-summary", "0 of 1 delivered")
    await page.wait_for_text("#delivery-rows", "On its way")
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await phone.ack((await phone.next_message())["message_id"])
        await page.wait_for_text("#delivery-rows", "Delivered")
    await page.wait_for_text("#delivery-summary", "1 of 1 delivered")


async def test_unknown_recipients_are_named_and_the_draft_stays(
    server: ServerProcess, browser: Browser, alice: Person
) -> None:
    page = await live_inbox(browser, server, alice)
    await page.click("#compose")
    await page.fill("#compose-recipients", "987654")
    await page.fill("#compose-subject", "To nobody")
    await page.click("#compose-send")
    await page.wait_for_text("#compose-error", "There is no user with this ID: 987654")
    assert await page.evaluate("document.querySelector('#compose-subject').value") == "To nobody"


async def test_a_reply_is_addressed_to_the_sender(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await live_inbox(browser, server, bob)
    await send(server.base_url, alice, [bob], title="Lunch?")
    await page.click(f"{FIRST_ROW} button")
    await page.click("#reply")
    values = "['recipients', 'subject'].map(f => document.querySelector('#compose-' + f).value)"
    assert await page.evaluate(values) == [str(alice.user_id), "Re: Lunch?"]


# ── 断与连 ───────────────────────────────────────────────────────────────────


async def test_after_a_restart_of_the_server_the_page_becomes_live_again_by_itself(
    browser: Browser, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path) as server:
        alice = await register(server.base_url, "alice")
        bob = await register(server.base_url, "bob")
        page = await live_inbox(browser, server, bob)
        server.kill()
        await page.wait_for_text("#connection", "Offline")
        server.start()
        await page.wait_for(LIVE, timeout=60)
        await send(server.base_url, alice, [bob], title="after the restart")
        await page.wait_for_text(FIRST_ROW, "after the restart")


async def test_a_short_lived_token_is_renewed_without_a_new_sign_in(
    browser: Browser, tmp_path: Path
) -> None:
    """第一次在连接上换（token_expiring），第二次等它过期（4004）。"""
    short = {
        "access_token_ttl_s": 4,
        "jwt_leeway_s": 0,
        "heartbeat_interval_s": 0.5,
        "heartbeat_timeout_s": 2,
    }
    with ServerProcess(tmp_path, settings=short) as server:
        bob = await register(server.base_url, "bob")
        page = await browser.page()
        await sign_in(page, server, bob.name)
        await page.wait_for(LIVE)
        token = "JSON.parse(sessionStorage.getItem('meeting-push.session')).accessToken"
        for _ in range(2):
            old = await page.evaluate(token)
            await page.wait_for(f"{token} !== '{old}'")
        await page.wait_for(LIVE)
        alice = await register(server.base_url, "alice")
        await send(server.base_url, alice, [bob], title="after the renewal")
        await page.wait_for_text(FIRST_ROW, "after the renewal")


async def test_a_refused_connection_says_why_and_offers_a_way_back(
    server: ServerProcess, browser: Browser, alice: Person, bob: Person
) -> None:
    page = await browser.page()
    await open_link(page, server, alice.token, bob.user_id)  # 别人的收件箱
    await page.wait_for_text("#stopped-reason", "You may not read this inbox.")
    await page.click("#stopped-action")
    await page.wait_for_text("#signin-title", "Sign in")
