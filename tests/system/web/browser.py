"""用 DevTools 协议驾驶无头 Chromium；只需要 websockets 库。"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect

from tests.support.child import Child
from tests.support.eventually import eventually, wait_until

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # CI 常以 root 运行
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # 页面不靠外网
    "--remote-debugging-port=0",
)
_TIMEOUT_S: Final = 15.0
Json = dict[str, Any]


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Chromium:
    """一个浏览器进程；``address`` 是它的 DevTools 地址。"""

    def __init__(self, binary: str, directory: Path) -> None:
        profile = directory / "profile"
        command = [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._child = Child(command, directory / "chromium.log")
        port_file = profile / "DevToolsActivePort"
        try:
            wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), 30)
        except BaseException:
            self.stop()
            raise
        port, path = port_file.read_text().split()
        self.address = f"ws://127.0.0.1:{port}{path}"

    def stop(self) -> None:
        self._child.stop()


#: 执行到一半，那一页换掉了。
_LEFT: Final = ("Inspected target navigated or closed", "Execution context was destroyed.")


class LeftError(AssertionError):
    """问的那一页已经离开。"""


class DevTools:
    """一条 DevTools 连接：命令与回答按 id 对上，事件按会话交给 ``Page``。"""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self.pages: dict[str, Page] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, session: str | None = None, **params: Any) -> Json:
        """:raises AssertionError: 浏览器拒绝了这个命令；``LeftError``: 那一页正在换成下一页"""
        number = next(self._ids)
        command = {"id": number, "method": method, "params": params}
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps(command | ({"sessionId": session} if session else {})))
        reply = await asyncio.wait_for(answer, _TIMEOUT_S)
        if reply.get("error", {}).get("message") in _LEFT:
            raise LeftError(method)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    async def close(self) -> None:
        await self._socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        async for text in self._socket:
            frame = json.loads(text)
            if "id" in frame:
                self._answers.pop(frame["id"]).set_result(frame)
            elif frame.get("sessionId") in self.pages:
                self.pages[frame["sessionId"]].on_event(frame["method"], frame["params"])


class Page:
    """一个标签页。"""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools = tools
        self._session = session
        #: 未捕获的异常与被 CSP 拦下的事：页面自己不该有任何一件。
        self.problems: list[str] = []

    def on_event(self, method: str, params: Json) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(str(details.get("exception", details).get("description", details)))
        elif method == "Log.entryAdded" and params["entry"]["source"] in ("security", "violation"):
            self.problems.append(str(params["entry"]["text"]))

    async def call(self, method: str, **params: Any) -> Json:
        return await self._tools.call(method, self._session, **params)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """表达式（或承诺）的值，须能变成 JSON。"""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def wait_for(self, expression: str, timeout: float = _TIMEOUT_S) -> Any:
        """等到表达式为真，返回它的值；其间换了一页的，看下一页的。"""

        async def found() -> Any:
            try:
                return await self.evaluate(expression)
            except LeftError:
                return None

        return await eventually(found, timeout)

    async def fill(self, selector: str, text: str) -> None:
        await self.wait_for(f"{_visible(selector)}")
        await self.evaluate(f"{_find(selector)}.focus()")
        await self.evaluate(f"{_find(selector)}.value = ''")
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        await self.wait_for(f"{_visible(selector)} && !{_find(selector)}.disabled")
        await self.evaluate(f"{_find(selector)}.click()")

    async def press(self, key: str) -> None:
        # 没有它，Enter 不会触发按钮
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    async def text(self, selector: str) -> str:
        """看得见的文字；元素不在或隐藏着则为空。"""
        return str(await self.evaluate(f"{_visible(selector)} ? {_find(selector)}.innerText : ''"))

    async def wait_for_text(self, selector: str, text: str) -> None:
        """等到 ``selector`` 看得见，且文字里有 ``text``。"""
        await self.wait_for(
            f"{_visible(selector)} && {_find(selector)}.innerText.includes({json.dumps(text)})"
        )


class Browser:
    """一个互不相干的浏览器环境（自己的存储）；关闭时连同标签页一起消失。"""

    def __init__(self, tools: DevTools, context: str) -> None:
        self._tools = tools
        self._context = context

    async def grant(self, *permissions: str) -> None:
        """这个环境里的页面都许。"""
        await self._tools.call(
            "Browser.grantPermissions",
            browserContextId=self._context,
            permissions=list(permissions),
        )

    async def page(self, language: str = "en-US", width: int = 1280, height: int = 800) -> Page:
        target = await self._tools.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        attached = await self._tools.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        session = attached["sessionId"]
        page = self._tools.pages[session] = Page(self._tools, session)
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        agent = (await self._tools.call("Browser.getVersion"))["userAgent"]
        await page.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        return page


@contextlib.asynccontextmanager
async def open_browser(address: str) -> AsyncIterator[Browser]:
    """连上一个 Chromium，建一个全新的环境。"""
    socket = await connect(address, max_size=None, proxy=None, ping_interval=None)
    tools = DevTools(socket)
    try:
        context = (await tools.call("Target.createBrowserContext"))["browserContextId"]
        yield Browser(tools, context)
        await tools.call("Target.disposeBrowserContext", browserContextId=context)
    finally:
        await tools.close()


def _find(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


def _visible(selector: str) -> str:
    return f"Boolean({_find(selector)}?.checkVisibility())"
