"""收件箱页面：axe 在每一格都找不出毛病；桌面与手机，亮与暗，两种语言（图片留在测试的目录里）。"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.people import Person, register, send
from tests.support.server_process import ServerProcess
from tests.system.broadcast.conftest import broadcast
from tests.system.web.browser import Browser, Page
from tests.system.web.steps import FIRST_ROW, LIVE, open_link, photograph

pytestmark = pytest.mark.timeout(240)

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
WORDS = {"en-US": "Quarterly report", "zh-CN": "第三季度的报告"}


@pytest.fixture
async def ann(server: ServerProcess) -> Person:
    return await register(server.base_url, f"ann-{uuid4().hex[:8]}")


@pytest.fixture
async def ben(server: ServerProcess) -> Person:
    return await register(server.base_url, f"ben-{uuid4().hex[:8]}")


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_axe_finds_nothing_in_any_view(
    server: ServerProcess,
    browser: Browser,
    tools: Path,
    tmp_path: Path,
    ann: Person,
    ben: Person,
    language: str,
    scheme: str,
    size: str,
) -> None:
    title = WORDS[language]
    for number in range(4):
        await send(server.base_url, ann, [ben], title=f"{title} {number}", content="a\nb")
    await send(server.base_url, ben, [ann], title=title, content="https://example.com")
    await broadcast(server, title=title, message_type="system", priority=8)
    await send(
        server.base_url, ann, [ben], title=title, content="https://example.com/x", priority=7
    )
    page = await browser.page(language, *SIZES[size])
    await page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    await open_link(page, server, ben.token, ben.user_id)
    await page.wait_for(LIVE)
    await page.wait_for("document.querySelectorAll('#messages > li').length === 6")
    axe = (tools / "node_modules" / "axe-core" / "axe.min.js").read_text()
    await page.evaluate(f"{axe}; 1")
    await checked(page, tmp_path / f"list-{size}-{scheme}-{language}.png")
    await page.click(f"{FIRST_ROW} button")
    await page.wait_for_text("#reader-title", title)
    await checked(page, tmp_path / f"reader-{size}-{scheme}-{language}.png")
    await back(page)
    await page.click("[data-view=sent]")
    await page.wait_for("document.querySelectorAll('#messages > li').length === 1")
    await page.click(f"{FIRST_ROW} button")
    await page.wait_for("Boolean(document.querySelector('#delivery-rows tr'))")
    await checked(page, tmp_path / f"sent-{size}-{scheme}-{language}.png")
    await back(page)
    await page.click("[data-view=archived]")
    await page.wait_for("document.querySelector('#list-empty').checkVisibility()")
    await page.click("#compose")
    await checked(page, tmp_path / f"compose-{size}-{scheme}-{language}.png")
    await back(page)
    await page.evaluate("document.querySelector('#shortcuts').showModal()")
    await checked(page, tmp_path / f"keys-{size}-{scheme}-{language}.png")
    assert page.problems == []


async def back(page: Page) -> None:
    await page.press("Escape")
    await page.wait_for("document.querySelector('#app').dataset.pane === 'empty'")


async def checked(page: Page, picture: Path) -> None:
    """axe 找不出；宽处也不越出窗口。"""
    found = await page.evaluate(
        "Promise.all(document.getAnimations().map((one) => one.finished)).then(() =>"
        " axe.run(document)).then(({ violations }) =>"
        " violations.map(({ id, nodes }) => [id, nodes.map((one) => one.html)]))"
    )
    await photograph(page, picture)
    assert found == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
