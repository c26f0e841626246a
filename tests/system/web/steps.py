"""人在收件箱里做的几件事。"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from urllib.parse import urlencode

from tests.support.people import PASSWORD, Person
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser, Page

LIVE = "document.querySelector('#connection').dataset.state === 'live'"
FIRST_ROW = "#messages > li:first-child"


async def open_inbox(page: Page, server: ServerProcess) -> None:
    await page.open(f"{server.base_url}/inbox")


async def open_link(page: Page, server: ServerProcess, token: str, user_id: int) -> None:
    """演示给的那种链接：令牌在片段里。"""
    fragment = urlencode({"token": token, "user": user_id})
    await page.open(f"{server.base_url}/inbox#{fragment}")


async def sign_in(page: Page, server: ServerProcess, name: str, password: str = PASSWORD) -> None:
    await open_inbox(page, server)
    await page.fill("#username", name)
    await page.fill("#password", password)
    await page.click("#signin-submit")


async def live_inbox(browser: Browser, server: ServerProcess, person: Person) -> Page:
    """一个新标签页，``person`` 已登录，连接是活的，收件箱已取来。"""
    page = await browser.page()
    await open_link(page, server, person.token, person.user_id)
    await page.wait_for(LIVE)
    await page.wait_for("document.querySelector('#list-loading').hidden")
    return page


async def badge(page: Page) -> int:
    """页面此刻显示的未读数；不显示就是 0。"""
    return int(await page.text("#unread") or 0)


async def wait_for_badge(page: Page, count: int) -> None:
    text = str(count) if count else ""
    shown = "(node => node.hidden ? '' : node.textContent)(document.querySelector('#unread'))"
    await page.wait_for(f"{shown} === '{text}'")


async def photograph(page: Page, picture: Path) -> None:
    shot = await page.call("Page.captureScreenshot", format="png")
    await asyncio.to_thread(picture.write_bytes, base64.b64decode(shot["data"]))
