"""接口文档在没有外网的地方也看得到。"""

from __future__ import annotations

from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser

ASKED = "performance.getEntriesByType('resource').map(entry => entry.name)"


async def test_docs_need_no_other_host(server: ServerProcess, browser: Browser) -> None:
    """浏览器解析不了别的任何名字；页面也没有试。"""
    page = await browser.page()
    await page.open(f"{server.base_url}/docs")
    await page.wait_for_text("#swagger-ui", "/api/v1/messages/broadcast")
    assert [url for url in await page.evaluate(ASKED) if not url.startswith(server.base_url)] == []
    assert page.problems == []
