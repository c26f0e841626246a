"""握着一个 JavaScript 客户端的一方：在 Node 里，或在 Chromium 的一个页面上；说的话一样。"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, Self

from tests.support.eventually import eventually
from tests.support.people import Person
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Page

#: 在两边都先执行一次：``listen`` 造出 ``client``，记下它说的一切。
#: 退避的顶压得低：服务器起得慢时，缺省的 30 秒比等它的时间还长。
PRELUDE: Final = """
globalThis.listen = (options) => {
  Object.assign(globalThis, { got: [], states: [], waits: [], failures: [], gaps: [] });
  globalThis.client = new globalThis.sdk.PushClient({
    url: SERVER, backoffBaseMs: 50, backoffCapMs: 500, ...globalThis.extra, ...options,
  });
  client.on("message", ({ message_id }) => void got.push(message_id));
  client.on("state", (state) => {
    states.push(state);
    if (state.retryAt !== null) waits.push(state.retryAt - Date.now());
  });
  client.on("welcome", ({ resumed }) => { globalThis.resumed = resumed });
  client.on("error", (error) => void failures.push(error.code ?? error.message));
  client.start();
}
"""
_TIMEOUT_S: Final = 60.0


class Agent(Protocol):
    async def evaluate(self, expression: str) -> Any: ...

    async def sleep(self) -> None:
        """像机器睡了：一行也不执行，定时器不响，套接字没有人读。"""

    async def wake(self) -> None: ...


async def wait_for(agent: Agent, expression: str, timeout: float = _TIMEOUT_S) -> Any:
    return await eventually(lambda: agent.evaluate(expression), timeout)


async def listen(agent: Agent, person: Person, token: str | None = None, **options: object) -> None:
    """``token`` 是 JavaScript 的表达式；缺省是此人固定的令牌。"""
    given = json.dumps({"userId": person.user_id, **options})
    source = token or json.dumps(person.token)
    await agent.evaluate(f"listen({{ ...{given}, token: {source} }})")


async def connected(agent: Agent) -> None:
    await wait_for(agent, "client.state.name === 'connected'")


async def received(agent: Agent, *message_ids: str) -> None:
    """正好这些，各一次；次序不论。"""
    expected = json.dumps(sorted(message_ids))
    await wait_for(agent, f"got.length >= {len(message_ids)}")
    assert await agent.evaluate("JSON.stringify([...got].sort())") == json.dumps(
        json.loads(expected), separators=(",", ":")
    )


class NodeAgent:
    """一个 node 进程：标准输入一行一个表达式，标准输出一行一个值。"""

    DRIVER: Final = Path(__file__).with_name("driver.mjs")

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, node: str, sdk: Path, ws: Path, server: ServerProcess
    ) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            *(node, str(cls.DRIVER), str(sdk), str(ws)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        agent = cls(process)
        try:
            await agent.evaluate(f"globalThis.SERVER = {json.dumps(server.base_url)}")
            await agent.evaluate(f"void eval({json.dumps(PRELUDE)})")
            yield agent
        finally:
            process.kill()
            await process.wait()

    async def evaluate(self, expression: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(expression).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), _TIMEOUT_S)
        answer = json.loads(line)
        assert "error" not in answer, f"{expression}: {answer['error']}"
        return answer.get("value")

    async def sleep(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    async def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class PageAgent:
    """别的来源上的一个页面，没有 CSP：像别人的应用。"""

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    async def open(cls, page: Page, server: ServerProcess, origin: str) -> PageAgent:
        await page.open(f"{origin}/")
        agent = cls(page)
        await agent.load(server)
        return agent

    async def load(self, server: ServerProcess) -> None:
        module = json.dumps(f"{server.base_url}/static/meeting-push.js")
        await self.evaluate(f"import({module}).then((sdk) => void (globalThis.sdk = sdk))")
        await self.evaluate(f"globalThis.SERVER = {json.dumps(server.base_url)}; {PRELUDE}; 1")

    async def evaluate(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def sleep(self) -> None:
        await self.page.call("Debugger.enable")
        await self.page.call("Debugger.pause")  # 在下一句停住：来了一帧就是

    async def wake(self) -> None:
        await self.page.call("Debugger.resume")
        await self.page.call("Debugger.disable")


class _Blank(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><title>elsewhere</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextlib.contextmanager
def elsewhere() -> Iterator[str]:
    """别人的来源：一个空页面；产出它的来源。"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Blank) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
