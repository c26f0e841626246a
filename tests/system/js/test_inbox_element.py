"""``<meeting-push-inbox>``：铃铛与列表，在别人的页面上，对着真实的服务器。"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.people import Person, register, send
from tests.support.server_process import ServerProcess
from tests.system.broadcast.conftest import broadcast
from tests.system.web.browser import Browser
from tests.system.web.steps import open_inbox

from .agent import PageAgent, connected, listen, wait_for

pytestmark = pytest.mark.timeout(240)

ROOT = "inbox.shadowRoot"
ROWS = f"[...{ROOT}.querySelectorAll('.item')]"
BADGE = (
    f"(({{ hidden, textContent }}) => hidden ? '' : textContent)({ROOT}.querySelector('.badge'))"
)


@pytest.fixture
async def person(server: ServerProcess) -> Person:
    return await register(server.base_url, f"user-{uuid4().hex[:12]}")


async def place(
    tab: PageAgent, server: ServerProcess, person: Person, language: str = "en"
) -> None:
    """连上，把元素放进页面。"""
    await listen(tab, person)
    await connected(tab)
    module = json.dumps(f"{server.base_url}/static/meeting-push-inbox.js")
    await tab.evaluate(
        f"""import({module}).then(() => {{
          globalThis.opened = [];
          globalThis.inbox = document.createElement("meeting-push-inbox");
          inbox.lang = {json.dumps(language)};
          inbox.client = client;
          inbox.addEventListener("open-message", ({{ detail }}) => opened.push(detail.message_id));
          document.documentElement.lang = "en";
          document.body.append(inbox);
        }})"""
    )


async def keys(tab: PageAgent, *names: str) -> None:
    for name in names:
        await tab.page.press(name)


async def test_what_is_there_what_comes_and_what_is_read(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    first = await send(server.base_url, person, [person], title="first")
    await place(tab, server, person)
    await wait_for(tab, f"{BADGE} === '1' && {ROWS}.length === 1")
    second = await send(server.base_url, person, [person], title="second", priority=7)
    await wait_for(tab, f"{BADGE} === '2' && {ROWS}.length === 2")
    assert await tab.evaluate(f"{ROWS}.map((row) => row.dataset.id)") == [second, first]
    assert "Urgent" in await tab.evaluate(f"{ROWS}[0].textContent")
    assert await tab.evaluate(f"{ROOT}.querySelector('[role=status]').textContent") == (
        "New message: second"
    )
    await tab.evaluate(f"{ROWS}[0].click()")
    await wait_for(tab, f"{BADGE} === '1'")
    assert await tab.evaluate("opened") == [second]
    await tab.evaluate(f"client.rest.markRead([{json.dumps(first)}])")
    await wait_for(tab, f"{BADGE} === '' && {ROOT}.querySelectorAll('.unread').length === 0")


async def test_the_keyboard_is_enough(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    for number in range(3):
        await send(server.base_url, person, [person], title=f"title {number}")
    await place(tab, server, person)
    await wait_for(tab, f"{ROWS}.length === 3")
    focused = f"{ROOT}.activeElement"
    await keys(tab, "Tab", "Enter")
    assert await tab.evaluate(f"{ROWS}.indexOf({focused})") == 0
    await keys(tab, "ArrowDown", "End", "ArrowUp")
    assert await tab.evaluate(f"{ROWS}.indexOf({focused})") == 1
    await keys(tab, "Enter")
    await wait_for(tab, f"{BADGE} === '2'")
    assert await tab.evaluate(f"{ROWS}.indexOf({focused})") == 1, "the focus stays on the row"
    await keys(tab, "Escape")
    assert await tab.evaluate(f"{ROOT}.querySelector('.panel').hidden") is True
    assert await tab.evaluate(f"{focused}.getAttribute('aria-expanded')") == "false"


async def test_mark_all_read_covers_what_is_not_shown_yet(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    for number in range(32):
        await send(server.base_url, person, [person], title=f"title {number}")
    await tab.evaluate("globalThis.extra = { deviceId: 'late' }")
    await place(tab, server, person)
    await wait_for(tab, f"{BADGE} === '32'")
    await tab.evaluate(f"{ROOT}.querySelector('header .link').click()")
    await wait_for(tab, f"{BADGE} === ''")
    inbox = await tab.evaluate("client.rest.inbox({ unread: true })")
    assert inbox["items"] == []


async def test_a_row_is_archived_by_its_button_and_by_a_key(
    tab: PageAgent, server: ServerProcess, person: Person
) -> None:
    ids = [await send(server.base_url, person, [person], title=f"no. {n}") for n in range(4)]
    await place(tab, server, person)
    await wait_for(tab, f"{ROWS}.length === 4 && {BADGE} === '4'")
    await keys(tab, "Tab", "Enter", "Tab")
    assert await tab.evaluate(f"{ROOT}.activeElement.ariaLabel") == "Archive: no. 3"
    await keys(tab, "Enter")
    await wait_for(tab, f"{ROWS}.length === 3 && {BADGE} === '3'")
    # 自己的 `inbox_sync` 可以比回答先到
    await wait_for(tab, f"{ROOT}.querySelector('[role=status]').textContent === 'Archived: no. 3'")
    focused = f"{ROOT}.activeElement?.dataset.id"  # 那一行刚没有时，焦点哪里也不在
    await wait_for(tab, f"{focused} === {json.dumps(ids[2])}")
    await keys(tab, "End", "e")
    await wait_for(tab, f"{focused} === {json.dumps(ids[1])}", 60)
    archived = await tab.evaluate("client.rest.inbox({ archived: true })")
    assert [item["message_id"] for item in archived["items"]] == [ids[3], ids[0]]
    await tab.evaluate(f"client.rest.archive({json.dumps(ids[1:3])})")  # 别处归档的也不再在
    await wait_for(tab, f"{ROWS}.length === 0 && {BADGE} === ''")


@pytest.mark.parametrize(
    ("language", "marks"),
    [
        ("en", [["Urgent", "System", "To everybody"], ["Notification"], []]),
        ("zh", [["紧急", "系统", "全体"], ["通知"], []]),
    ],
)
async def test_the_kind_of_a_message_is_marked(
    tab: PageAgent, server: ServerProcess, person: Person, language: str, marks: list[list[str]]
) -> None:
    await send(server.base_url, person, [person])
    await send(server.base_url, person, [person], message_type="notification")
    await broadcast(server, message_type="system", priority=8)
    await place(tab, server, person, language)
    await wait_for(tab, f"{ROWS}.length === 3")
    of = "[...row.querySelectorAll('.mark')].map((one) => one.textContent)"
    assert await tab.evaluate(f"{ROWS}.map((row) => {of})") == marks


@pytest.mark.parametrize(
    ("language", "label", "title"),
    [("en", "Notifications, 1 unread", "Messages"), ("zh-CN", "通知，1 条未读", "消息")],
)
async def test_it_speaks_the_language_of_the_page(
    tab: PageAgent, server: ServerProcess, person: Person, language: str, label: str, title: str
) -> None:
    await send(server.base_url, person, [person])
    await place(tab, server, person, language)
    await wait_for(tab, f"{ROOT}.querySelector('.bell').ariaLabel === {json.dumps(label)}")
    assert await tab.evaluate(f"{ROOT}.querySelector('h2').textContent") == title


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(
    tab: PageAgent, tools: Path, server: ServerProcess, person: Person, scheme: str
) -> None:
    await broadcast(server, title="urgent", message_type="system", priority=9)
    await send(server.base_url, person, [person], message_type="notification")
    await place(tab, server, person)
    await wait_for(tab, f"{ROWS}.length === 2")
    await tab.evaluate(
        f"{{ document.documentElement.style.colorScheme = {scheme!r};"
        f" inbox.style.setProperty('--mp-color-scheme', {scheme!r});"
        f" document.body.style.background = {'#131312' if scheme == 'dark' else '#fff'!r};"
        f" {ROOT}.querySelector('.bell').click() }}"
    )
    axe = (tools / "node_modules" / "axe-core" / "axe.min.js").read_text()
    await tab.evaluate(f"{axe}; 1")
    found = await tab.evaluate(
        "axe.run(inbox).then(({ violations, passes }) => ({ passes: passes.map(({ id }) => id),"
        " violations: violations.map(({ id, nodes }) => [id, nodes.map((one) => one.html)]) }))"
    )
    assert found["violations"] == []
    assert {"button-name", "color-contrast", "aria-dialog-name"} <= set(found["passes"])


async def test_it_lives_under_a_strict_policy(browser: Browser, server: ServerProcess) -> None:
    """收件箱页面的 CSP 与 Trusted Types：没有行内的样式，没有往 innerHTML 写。"""
    page = await browser.page()
    await open_inbox(page, server)
    await page.evaluate(
        "import('/static/meeting-push-inbox.js').then(() =>"
        " void document.body.append(document.createElement('meeting-push-inbox')))"
    )
    await page.wait_for("document.querySelector('meeting-push-inbox').shadowRoot.children.length")
    assert page.problems == []
