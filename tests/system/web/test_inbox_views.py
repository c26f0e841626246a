"""收件箱页面的各格：两个人、两个浏览器环境、两个标签页；归档、未读、已发送、撤回、搜索、键盘。"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.people import Person, api_of, register, send
from tests.support.server_process import ServerProcess
from tests.system.broadcast.conftest import broadcast
from tests.system.web.browser import Browser, Chromium, Page, open_browser
from tests.system.web.steps import (
    FIRST_ROW,
    LIVE,
    live_inbox,
    open_inbox,
    sign_in,
    wait_for_badge,
)

pytestmark = pytest.mark.timeout(240)

ROWS = "[...document.querySelectorAll('#messages > li')]"
LONG = "https://example.com/a(b)?c=1"


@pytest.fixture
async def ann(server: ServerProcess) -> Person:
    return await register(server.base_url, f"ann-{uuid4().hex[:8]}")


@pytest.fixture
async def ben(server: ServerProcess) -> Person:
    return await register(server.base_url, f"ben-{uuid4().hex[:8]}")


async def view(page: Page, name: str) -> None:
    await page.click(f"[data-view={name}]")
    await page.wait_for("document.querySelector('#list-loading').hidden")


async def shows(page: Page, *titles: str) -> None:
    """列表里恰是这些，新的在前。"""
    now = f"{ROWS}.map((row) => row.querySelector('.row-title').textContent)"
    wanted = json.dumps(list(titles))
    await page.wait_for(f"JSON.stringify({now}) === JSON.stringify({wanted})")


async def write(page: Page, to: str, title: str, content: str) -> None:
    await page.click("#compose")
    await page.fill("#compose-recipients", to)
    await page.fill("#compose-subject", title)
    await page.fill("#compose-content", content)
    await page.click("#compose-send")


async def test_two_people_in_two_browsers_and_two_tabs(
    server: ServerProcess, chromium: Chromium, ann: Person, ben: Person
) -> None:
    async with open_browser(chromium.address) as hers, open_browser(chromium.address) as his:
        first = await his.page()
        await sign_in(first, server, ben.name)
        await first.wait_for(LIVE)
        second = await his.page()
        await open_inbox(second, server)  # 不必再登录
        await second.wait_for(LIVE)
        assert await second.text("#you-name") == ben.name
        sender = await live_inbox(hers, server, ann)

        await write(sender, str(ben.user_id), "Look", f"see {LONG}), please. javascript:alert(1)")
        for tab in (first, second):
            await shows(tab, "Look")
            await wait_for_badge(tab, 1)
        await first.click(f"{FIRST_ROW} button")
        link = "[...document.querySelectorAll('#reader-body a')].map((a) => [a.href, a.rel])"
        assert await first.evaluate(link) == [[LONG, "noopener noreferrer nofollow"]]
        for tab in (first, second):
            await wait_for_badge(tab, 0)
        await first.click("#mark-unread")
        for tab in (first, second):
            await wait_for_badge(tab, 1)
        await second.wait_for(f"Boolean(document.querySelector('{FIRST_ROW} .unread'))")

        await first.click(f"{FIRST_ROW} button")
        await first.click("#archive")
        for tab in (first, second):
            await shows(tab)
        await view(second, "archived")
        await shows(second, "Look")
        await second.click(f"{FIRST_ROW} button")
        await second.click("#reply")
        await second.fill("#compose-content", "seen")
        await second.click("#compose-send")
        await second.wait_for_text("#delivery-rows", ann.name)  # 名字，不是号

        await shows(sender, "Re: Look")
        await write(sender, ben.name, "By name", "no number needed")
        await sender.wait_for_text("#delivery-rows", ben.name)
        await shows(first, "By name")
        await view(sender, "sent")
        await shows(sender, "By name", "Look")
        await sender.evaluate("window.confirm = () => true")
        await sender.click(f"{FIRST_ROW} button")
        await sender.wait_for_text("#delivery-summary", "1 of 1 delivered")
        await sender.click("#withdraw")
        await shows(sender, "Withdrawn", "Look")
        await shows(first, "Withdrawn")
        await first.click(f"{FIRST_ROW} button")
        await first.wait_for_text("#reader-body", "The sender has withdrawn this message.")
        for tab in (first, second, sender):
            assert tab.problems == []


async def test_f6_a_broadcast_stays_after_a_reload_and_is_counted(
    server: ServerProcess, browser: Browser, ben: Person
) -> None:
    """F6"""
    page = await live_inbox(browser, server, ben)
    await broadcast(server, title="To all of you", message_type="system")
    await shows(page, "To all of you")
    await wait_for_badge(page, 1)
    await page.wait_for_text(FIRST_ROW, "To everybody")
    await page.open(f"{server.base_url}/inbox?again")
    await page.wait_for(LIVE)
    await shows(page, "To all of you")
    await wait_for_badge(page, 1)
    await page.click("#read-all")
    await wait_for_badge(page, 0)


async def test_search_and_kinds(
    server: ServerProcess, browser: Browser, ann: Person, ben: Person
) -> None:
    await send(server.base_url, ann, [ben], title="周报", content="第 3 周")
    await send(server.base_url, ann, [ben], title="Meeting", content="明天的例会", priority=7)
    await send(server.base_url, ann, [ben], title="Build", message_type="notification")
    page = await live_inbox(browser, server, ben)
    await shows(page, "Build", "Meeting", "周报")
    await page.fill("#search", "例")
    await shows(page, "Meeting")
    await page.fill("#search", "nothing like it")
    await page.wait_for_text("#list-empty", "Nothing found")
    await page.evaluate(
        "{ const box = document.querySelector('#search'); box.value = '';"
        " box.dispatchEvent(new Event('input')) }"
    )
    for kind, title in (("notification", "Build"), ("urgent", "Meeting")):
        await page.evaluate(
            "{ const box = document.querySelector('#filter');"
            f" box.value = '{kind}'; box.dispatchEvent(new Event('change')) }}"
        )
        await shows(page, title)


async def test_the_keys(server: ServerProcess, browser: Browser, ann: Person, ben: Person) -> None:
    for title in ("one", "two", "three"):
        await send(server.base_url, ann, [ben], title=title)
    page = await live_inbox(browser, server, ben)
    await shows(page, "three", "two", "one")
    await page.press("?")
    await page.wait_for("document.querySelector('#shortcuts').open")
    await page.press("Escape")
    await page.wait_for("!document.querySelector('#shortcuts').open")
    await page.press("j")
    await page.wait_for_text("#reader-title", "three")
    await page.press("j")
    await page.wait_for_text("#reader-title", "two")
    await page.press("k")
    await page.wait_for_text("#reader-title", "three")
    await page.press("e")
    await shows(page, "two", "one")
    await page.wait_for("document.activeElement.closest('li')?.innerText.includes('two')")
    await page.press("c")
    await page.fill("#compose-subject", "jek are letters here")
    await shows(page, "two", "one")


async def test_ten_thousand_rows_are_a_window(
    server: ServerProcess, browser: Browser, ben: Person
) -> None:
    page = await live_inbox(browser, server, ben)
    await page.evaluate(
        """import('/static/message-list.js').then(({ MessageList }) => {
          window.opened = [];
          const list = document.querySelector('#messages').cloneNode();
          document.querySelector('#messages').replaceWith(list);
          window.rows = new MessageList(list, document.querySelector('.list'), {
            onOpen: (id) => opened.push(id), onNear: () => {} });
          rows.show(Array.from({ length: 10_000 }, (_, n) => ({
            message_id: String(n).padStart(26, '0'), message_type: 'message', title: `no. ${n}`,
            content: 'c', priority: 0, sender: { id: 7, name: 'x' },
            timestamp: 1e12, read: true })));
        })"""
    )
    assert await page.evaluate(f"{ROWS}.length") < 200
    await page.evaluate("document.querySelector('#messages button').focus()")
    await page.press("End")
    await page.wait_for("document.activeElement.innerText.includes('no. 9999')")
    at = "(row => [row.ariaPosInSet, row.ariaSetSize])(document.activeElement.closest('li'))"
    assert await page.evaluate(at) == ["10000", "10000"]
    await page.press("ArrowUp")
    await page.press("Enter")
    assert await page.evaluate("opened") == [f"{9998:026}"]
    assert await page.evaluate(f"{ROWS}.length") < 200
    await page.evaluate("document.querySelector('.list').scrollTop = 300_000")
    middle = f"{ROWS}.some((row) => row.getBoundingClientRect().top > 300)"
    await page.wait_for(middle)
    assert page.problems == []


async def test_the_icon_of_the_tab_carries_the_count(
    server: ServerProcess, browser: Browser, ann: Person, ben: Person
) -> None:
    page = await live_inbox(browser, server, ben)
    icon = "document.querySelector('link[rel=icon]').href"
    assert (await page.evaluate(icon)).endswith("/static/icon.svg")
    await send(server.base_url, ann, [ben])
    await page.wait_for(f"{icon}.startsWith('data:image/png')")
    await page.click("#read-all")
    await page.wait_for(f"{icon}.endsWith('/static/icon.svg')")
    assert page.problems == []


async def test_desktop_notices_are_by_permission(
    server: ServerProcess, browser: Browser, ann: Person, ben: Person
) -> None:
    await browser.grant("notifications")
    page = await live_inbox(browser, server, ben)
    assert await page.evaluate("document.querySelector('#notify').ariaPressed") == "false"
    await page.click("#notify")
    await page.wait_for("document.querySelector('#notify').ariaPressed === 'true'")
    await page.evaluate(
        "{ window.told = []; const Real = Notification; window.Notification = class extends Real {"
        " constructor(title, given) { super(title, given); told.push([title, given.body]) } };"
        " Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' }) }"
    )
    await send(server.base_url, ann, [ben], title="While you were away")
    await page.wait_for("told.length === 1")
    assert await page.evaluate("told") == [["While you were away", ann.name]]


async def test_a_chinese_page_says_nothing_in_english(
    server: ServerProcess, browser: Browser, ann: Person
) -> None:
    page = await browser.page(language="zh-CN")
    await sign_in(page, server, ann.name, password="not her password")
    await page.wait_for_text("#signin-error", "用户名或密码不对。")
    await sign_in(page, server, ann.name)
    await page.wait_for(LIVE)
    await write(page, str(ann.user_id), " ", "内容")
    await page.wait_for_text("#compose-error", "未被接受：标题")
    await page.fill("#compose-subject", "标题")
    await page.evaluate("document.querySelector('#compose-content').value = '字'.repeat(30_000)")
    await page.click("#compose-send")
    await page.wait_for_text("#compose-error", "这条消息太大了。")


async def test_the_list_of_what_was_sent_reads_on(
    server: ServerProcess, browser: Browser, ann: Person, ben: Person
) -> None:
    drafts = [
        {"recipient_ids": [ben.user_id], "title": f"no. {n}", "content": ""} for n in range(60)
    ]
    async with api_of(server.base_url, ann) as api:
        assert (await api.post("/messages/batch", json={"messages": drafts})).status_code == 202
    page = await live_inbox(browser, server, ann)
    await view(page, "sent")
    await page.wait_for(f"{ROWS}.length === 50")
    await page.click("#load-more")
    await page.wait_for(f"{ROWS}.length === 60")
    assert await page.text("#load-more") == ""


async def test_a_tab_asleep_for_ten_minutes_has_everything_once_after_waking(
    browser: Browser, tmp_path: Path
) -> None:
    """睡着时一行也不执行，醒来钟走了十分钟；令牌过期了，服务器换了一个进程。"""
    short = {"access_token_ttl_s": 4, "jwt_leeway_s": 0}
    with ServerProcess(tmp_path, settings=short) as server:
        ben = await register(server.base_url, "ben")
        page = await browser.page()
        await sign_in(page, server, ben.name)
        await page.wait_for(LIVE)
        await send(server.base_url, await register(server.base_url, "ann"), [ben], title="0")
        await shows(page, "0")
        await page.evaluate(
            "{ const real = Date.now; window.asleep = performance.now() + 3_000;"
            " Date.now = () => real() + (performance.now() > asleep ? 600_000 : 0) }"
        )
        await page.call("Debugger.enable")
        await page.call("Debugger.pause")
        began = time.monotonic()
        await three(server, ben, 1)
        server.terminate()
        server.start()
        await three(server, ben, 4)
        await eventually(lambda: time.monotonic() - began > 6, 150)
        await page.call("Debugger.resume")
        await page.call("Debugger.disable")
        await page.wait_for(LIVE, timeout=60)
        await shows(page, *"6543210")
        await wait_for_badge(page, 7)
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{server.base_url}/metrics")).text
        [refused] = re.findall(r"^meeting_push_auth_failures_total(?:{.*})? (\S+)", text, re.M)
        assert float(refused) <= 2


async def three(server: ServerProcess, to: Person, first: int) -> None:
    ann = await register(server.base_url, "ann")
    for number in range(first, first + 3):
        await send(server.base_url, ann, [to], title=str(number))
