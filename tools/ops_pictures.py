"""给运维页拍照：两种语言、两种外观、桌面与手机，供人看。

    python tools/ops_pictures.py http://127.0.0.1:8000 照片的文件夹 [哪几屏…] < 管理员的令牌

令牌从标准输入读，不进命令行。一个用户、一条消息、一条告警取此刻有的。
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx

from tests.system.web.browser import Browser, Chromium, Page, find_chromium, open_browser

LANGUAGES: Final = {"en": "en-US", "zh": "zh-CN"}
THEMES: Final = ("light", "dark")
SIZES: Final = {"desktop": (1366, 900), "phone": (390, 844)}
#: 曲线要有几个点才好看。
SETTLE_S: Final = 5.0


async def first(api: httpx.AsyncClient, path: str, field: str) -> str:
    """清单里第一项的 ``field``；没有这个清单，或它是空的，就没有。"""
    answer = await api.get(path)
    items: list[dict[str, Any]] = answer.json().get("items", []) if answer.is_success else []
    return str(items[0][field]) if items else ""


async def views(url: str, token: str) -> dict[str, str]:
    """照片的名字 → 片段。"""
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers) as api:
        user = await first(api, "/mailboxes?limit=1", "user_id")
        user = user or await first(api, "/presence/online", "user_id")
        message = await first(api, "/deliveries/failures", "message_id")
        alert = await first(api, "/alerts", "alert_id")
    named = {name: name for name in ("overview", "nodes", "alerts", "failures", "mailboxes")}
    named |= {"logs": "logs", "user": f"user/{user}", "message": f"message/{message}"}
    return named | {"alert": f"alert/{alert}", "online": "user"}


async def enter(page: Page, url: str, token: str) -> None:
    await page.open(f"{url}/ops")
    await page.evaluate("document.querySelector('#token-entry').open = true")
    await page.fill("#token", token)
    await page.click("#token-submit")
    await page.wait_for("!document.querySelector('#app').hidden")


async def fit(page: Page, width: int, height: int) -> None:
    """窗口开到内容那么高。"""
    for tall in (height, None):
        inner = "document.querySelector('#view').scrollHeight"
        tall = tall or min(max(height, int(await page.evaluate(inner)) + 120), 3_000)
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=tall,
            deviceScaleFactor=1,
            mobile=width < 600,
        )


async def take(page: Page, path: Path) -> None:
    answer = await page.call("Page.captureScreenshot", format="png")
    await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))


async def take_all(browser: Browser, url: str, token: str, folder: Path, wanted: list[str]) -> None:
    shown = await views(url, token)
    shown = {name: shown[name] for name in wanted or shown}
    for (language, locale), theme, (size, (width, height)) in itertools.product(
        LANGUAGES.items(), THEMES, SIZES.items()
    ):
        page = await browser.page(locale, width, height)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        await page.call("Emulation.setEmulatedMedia", features=features)
        await page.open(f"{url}/ops")
        await page.wait_for("!document.querySelector('#signin').hidden")
        await take(page, folder / f"signin-{language}-{theme}-{size}.png")
        await enter(page, url, token)
        for name, fragment in shown.items():
            await page.evaluate(f"location.hash = '#{fragment}'")
            await asyncio.sleep(SETTLE_S if name == "overview" else 1.0)
            await fit(page, width, height)
            await asyncio.sleep(0.3)
            await take(page, folder / f"{name}-{language}-{theme}-{size}.png")
        for problem in page.problems:
            sys.stderr.write(f"{language} {theme} {size}: {problem}\n")
        await page.evaluate("sessionStorage.clear()")
        await page.call("Page.close")


async def visit(address: str, url: str, token: str, folder: Path, wanted: list[str]) -> None:
    async with open_browser(address) as browser:
        await take_all(browser, url, token, folder, wanted)


def main(url: str, folder: Path, token: str, wanted: list[str]) -> None:
    binary = find_chromium()
    if binary is None:
        raise SystemExit("no chromium on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        chromium = Chromium(binary, Path(profile))
        try:
            asyncio.run(visit(chromium.address, url, token, folder, wanted))
        finally:
            chromium.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.stdin.read().strip(), sys.argv[3:])
