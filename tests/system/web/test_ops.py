"""运维页，像管理员一样用：真实的浏览器，真实的服务器，真的故障。"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.people import PASSWORD, Person, delivery, device, register, send
from tests.support.server_process import ServerProcess
from tests.system.test_cli import meeting_push
from tests.system.web.browser import Browser, Page

pytestmark = pytest.mark.timeout(120)  # 冷启动的浏览器与服务器

RULE = "authentication_failures_high"
MARKUP = "<img src=x onerror=alert(1)> & <b>bold</b>"
VIEWS = ["overview", "nodes", "alerts", "failures", "mailboxes", "user", "message", "logs"]
TILE = '[data-figure="{}"] dd'
ALERT_ROW = f"""[...document.querySelectorAll('[data-panel="alerts"] tbody tr')].find(
  row => row.innerText.includes('{RULE}'))"""
#: 画布上此刻的样子。
DRAWN = """document.querySelector('[data-chart="accepted_per_s"] canvas')?.toDataURL()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """告警的阈值与重试的间隔都缩短了。"""
    folder = tmp_path_factory.mktemp("server")
    rules = folder / "alerts.yml"
    rules.write_text(f"rules: {{{RULE}: {{threshold: 1, for_s: 0}}}}")
    settings = {
        "alerts": rules,
        "alerts_interval_s": 0.5,
        "retry_delays_s": "[0.2, 0.3]",
        "node_report_interval_s": 1,
    }
    with ServerProcess(folder, settings=settings) as process:
        yield process


@pytest.fixture
def admin() -> Person:
    return Person(999, "root", sign(999, "root", "admin"))


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await register(server.base_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await register(server.base_url, f"bob-{uuid4().hex[:8]}")


async def paste(page: Page, server: ServerProcess, token: str) -> None:
    await page.open(f"{server.base_url}/ops")
    await paste_into(page, token)


async def paste_into(page: Page, token: str) -> None:
    await page.evaluate("document.querySelector('#token-entry').open = true")
    await page.fill("#token", token)
    await page.click("#token-submit")


async def inside(browser: Browser, server: ServerProcess, admin: Person, view: str = "") -> Page:
    page = await browser.page()
    await paste(page, server, admin.token)
    await page.wait_for("!document.querySelector('#app').hidden")
    await page.evaluate(f"location.hash = '#{view}'")
    return page


# ── 进门 ─────────────────────────────────────────────────────────────────────


async def test_a_pasted_token_lets_an_administrator_in_and_stays_in_the_tab(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin)
    await page.wait_for_text("#view", "Sockets")
    kept = "JSON.stringify({...localStorage}) + location.href + document.cookie"
    assert admin.token not in await page.evaluate(kept)
    assert admin.token in await page.evaluate("JSON.stringify({...sessionStorage})")
    await page.click("#sign-out")
    await page.wait_for("!document.querySelector('#signin').hidden")
    assert await page.evaluate("sessionStorage.length") == 0
    assert page.problems == []


async def test_whoever_is_no_administrator_stays_outside(
    server: ServerProcess, browser: Browser, bob: Person
) -> None:
    page = await browser.page()
    await page.open(f"{server.base_url}/ops")
    await page.fill("#username", bob.name)
    await page.fill("#password", PASSWORD)
    await page.click("#account-submit")
    await page.wait_for_text("#signin-error", "This page is for administrators.")
    assert await page.text("#app") == ""
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_bad_token_is_explained(server: ServerProcess, browser: Browser) -> None:
    page = await browser.page()
    await paste(page, server, "not a token")
    await page.wait_for_text("#signin-error", "does not accept this sign-in")


async def test_an_admins_key_opens_the_page_others_are_refused(
    server: ServerProcess, browser: Browser
) -> None:
    """密钥不是谁：没有自己的连接，每隔几秒来问。"""
    folder = ("--data-dir", str(server.directory / "data"))
    keys = [
        meeting_push("key", "create", "pager", "--scope", scope, *folder, cwd=server.directory)
        for scope in ("admin", "read,presence")
    ]
    admins, others = [one.stdout.strip() for one in keys]
    page = await browser.page()
    await paste(page, server, others)
    await page.wait_for_text("#signin-error", "This page is for administrators.")
    await paste_into(page, admins)
    await page.wait_for_text("#view", "Sockets")
    assert await page.text("#you-name") == "API key"
    await page.click("#sign-out")
    await page.wait_for("!document.querySelector('#signin').hidden")
    assert await page.evaluate("sessionStorage.length") == 0


# ── 文字 ─────────────────────────────────────────────────────────────────────


async def test_every_view_has_every_word_in_both_languages(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    """选过的语言留着；缺的一句会以它的键出现。"""
    page = await inside(browser, server, admin)
    en, zh = await page.evaluate(
        "import('/static/ops/words.js').then(({opsWords: {en, zh}}) => [en, zh].map(Object.keys))"
    )
    assert en == zh
    await page.click("#language")
    await page.wait_for("document.documentElement?.lang === 'zh-CN'")
    await page.wait_for("document.querySelector('#app')?.hidden === false")
    for view in VIEWS:
        await page.evaluate(f"location.hash = '#{view}'")
        await page.wait_for(f"document.querySelector('#view').dataset.view === '{view}'")
        await page.wait_for("!document.body.innerText.includes('加载中')")
        assert await page.evaluate("document.body.innerText.match(/\\bops\\.[a-z_.]+/g)") is None
        assert await page.text(".trouble") == ""
    assert page.problems == []


async def test_the_theme_is_the_systems_until_it_is_chosen(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin)
    paper = "getComputedStyle(document.body).backgroundColor"
    await page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert await page.evaluate(paper) == "rgb(19, 19, 18)"
    await page.click("#theme")  # 浅色
    assert await page.evaluate(paper) == "rgb(246, 245, 242)"


async def test_a_digit_leads_to_its_view(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin)
    await page.press("3")
    await page.wait_for_text("#view h1", "Alerts")
    await page.fill("#channel", "")
    await page.press("1")
    assert await page.evaluate("location.hash") == "#alerts"


# ── 总览与节点 ───────────────────────────────────────────────────────────────


async def test_the_charts_move_under_load(
    server: ServerProcess, browser: Browser, admin: Person, alice: Person, bob: Person
) -> None:
    page = await inside(browser, server, admin)
    before = await page.wait_for(DRAWN)
    async with device(server.ws_url(bob.user_id), bob) as phone:

        async def load() -> None:
            while True:
                await phone.ack(await send(server.base_url, alice, [bob]))

        running = asyncio.create_task(load())
        tile = json.dumps(TILE.format("accepted_per_s"))
        await page.wait_for(f"parseFloat(document.querySelector({tile}).textContent) > 0", 30)
        running.cancel()
    await page.wait_for(f"{DRAWN} !== {json.dumps(before)}")
    assert page.problems == []


async def test_the_figures_come_over_the_administrators_own_socket(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin)
    await page.wait_for_text("#connection", "Live")


async def test_without_the_socket_the_page_asks_and_says_so(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    """页面的 WebSocket 永远连不上。"""
    page = await browser.page()
    await page.open(f"{server.base_url}/ops")
    await page.evaluate("window.WebSocket = class extends EventTarget { close() {} send() {} }")
    await paste_into(page, admin.token)
    await page.wait_for_text("#connection", "Polling")
    await page.wait_for_text("#view tbody", "Ordinary")


async def test_each_process_has_its_row_and_its_page(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin, "nodes")
    await page.wait_for_text("#view tbody", "Ready")
    await page.click("#view tbody a")
    await page.wait_for_text("#view", "Totals since start")


# ── 告警 ─────────────────────────────────────────────────────────────────────


async def test_an_alert_appears_is_acknowledged_and_silenced(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin, "alerts")
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        for _ in range(3):
            await client.get("/api/v1/messages", headers={"authorization": "Bearer bad"})
    await page.wait_for(f"Boolean({ALERT_ROW})", 30)
    await page.evaluate(f"{ALERT_ROW}.querySelector('button').click()")
    await page.wait_for(f"{ALERT_ROW}.innerText.includes('Taken by root')")
    await page.evaluate(f"{ALERT_ROW}.querySelector('a').click()")
    await page.wait_for_text("#view h1", "Alert")
    await page.click('[data-panel="handling"] .pair button')
    await page.wait_for_text('[data-panel="alert"] .timeline', "Silenced")
    await page.evaluate("location.hash = '#alerts'")
    await page.wait_for(f"{ALERT_ROW}?.innerText.includes('Silent until')")
    count = """document.querySelector('#views [data-view="alerts"] .count')"""
    await page.wait_for(f"Number({count}.textContent) > 0")


async def test_an_unknown_channel_is_told(
    server: ServerProcess, browser: Browser, admin: Person
) -> None:
    page = await inside(browser, server, admin, "alerts")
    await page.fill("#channel", "nowhere")
    await page.click('[data-panel="channel"] button')
    await page.wait_for_text('[data-panel="channel"]', "There is no channel of this name.")


# ── 失败 ─────────────────────────────────────────────────────────────────────


async def test_a_dead_letter_is_requeued_and_what_it_says_stays_text(
    server: ServerProcess, browser: Browser, admin: Person, alice: Person, bob: Person
) -> None:
    """没有确认的一条：失败、死信；从页面上重新入队，这次确认了。"""

    async def status() -> str:
        found = await delivery(server.base_url, alice, message_id)
        return str(found["recipients"][0]["status"])

    async def became(wanted: str) -> bool:
        return await status() == wanted

    async with device(server.ws_url(bob.user_id), bob):
        message_id = await send(server.base_url, alice, [bob], title=MARKUP)
        await eventually(lambda: became("failed"), 30)
    page = await inside(browser, server, admin, "failures")
    await page.wait_for_text('[data-panel="failures"]', MARKUP)
    await page.wait_for_text('[data-panel="dead"]', message_id)
    row = f"""[...document.querySelectorAll('[data-panel="dead"] tbody tr')].find(
      row => row.innerText.includes('{message_id}'))"""
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await page.evaluate(f"{row}.querySelector('input').click()")
        await page.click('[data-panel="dead"] .primary')
        await page.wait_for_text('[data-panel="dead"]', "1 requeued")
        await phone.ack((await phone.next_message())["message_id"])
        await eventually(lambda: became("delivered"), 30)
    await page.wait_for(f"!{row}")
    assert page.problems == []


# ── 一个人 ───────────────────────────────────────────────────────────────────


async def test_a_user_is_inspected_and_kicked(
    server: ServerProcess, browser: Browser, admin: Person, alice: Person, bob: Person
) -> None:
    held = await send(server.base_url, alice, [bob], title="for later")
    async with device(server.ws_url(bob.user_id, device_info=MARKUP), bob) as phone:
        assert (await phone.next_message())["message_id"] == held
        page = await inside(browser, server, admin, f"user/{bob.user_id}")
        await page.wait_for_text('[data-panel="user"]', bob.name)
        await page.wait_for_text('[data-panel="user"]', MARKUP)
        await page.wait_for_text('[data-panel="user"]', held)
        await page.click('[data-panel="user"] tbody button')
        await asyncio.wait([phone.reader], timeout=10)
        assert phone.socket.close_code == 4503
    await page.wait_for_text('[data-panel="user"]', "Not connected.")
    assert page.problems == []


@pytest.mark.parametrize("sure", [False, True])
async def test_revoking_asks_first(
    server: ServerProcess, browser: Browser, admin: Person, bob: Person, sure: bool
) -> None:
    page = await inside(browser, server, admin, f"user/{bob.user_id}")
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await page.evaluate(f"window.confirm = () => (window.asked = true, {str(sure).lower()})")
        await page.click('[data-panel="actions"] .danger')
        await page.wait_for("window.asked")
        if sure:
            await asyncio.wait([phone.reader], timeout=10)
            assert phone.socket.close_code == 4502
        else:
            await phone.round_trip()
            assert phone.socket.close_code is None


async def test_who_is_online_and_whose_mailbox_is_full_lead_to_the_person(
    server: ServerProcess, browser: Browser, admin: Person, alice: Person, bob: Person
) -> None:
    await send(server.base_url, alice, [bob])
    page = await inside(browser, server, admin, "mailboxes")
    row = f"""document.querySelector('[data-panel="mailboxes"] a[href="#user/{bob.user_id}"]')"""
    await page.wait_for(f"Boolean({row})", 30)
    await page.evaluate(f"{row}.click()")
    await page.wait_for_text('[data-panel="user"]', bob.name)
    async with device(server.ws_url(alice.user_id), alice):
        await page.evaluate("location.hash = '#user'")
        await page.wait_for_text('[data-panel="online"]', str(alice.user_id))


# ── 一条消息 ─────────────────────────────────────────────────────────────────


async def test_a_message_is_followed_from_accept_to_ack(
    server: ServerProcess, browser: Browser, admin: Person, alice: Person, bob: Person
) -> None:
    async with device(server.ws_url(bob.user_id), bob) as phone:
        message_id = await send(server.base_url, alice, [bob], title=MARKUP)
        await phone.ack((await phone.next_message())["message_id"])
        await eventually(lambda: is_delivered(server, alice, message_id), 30)
    page = await inside(browser, server, admin, "message")
    await page.fill("#find-message", message_id)
    await page.click(".finder .primary")
    await page.wait_for_text('[data-panel="message"]', MARKUP)
    steps = f"[...document.querySelectorAll('[data-user=\"{bob.user_id}\"] [data-stage]')]"
    stages = await page.evaluate(f"{steps}.map(step => step.dataset.stage)")
    wanted = ["accepted", "enqueued", "taken", "delivered", "pushed", "acked"]
    assert [stage for stage in stages if stage in wanted] == wanted
    assert "after accept" in await page.evaluate(f"{steps}.at(-1).innerText")
    assert page.problems == []


async def is_delivered(server: ServerProcess, sender: Person, message_id: str) -> bool:
    found = await delivery(server.base_url, sender, message_id)
    return bool(found["recipients"][0]["status"] == "delivered")
