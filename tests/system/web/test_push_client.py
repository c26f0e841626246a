"""从前的 ``push-client.js``：地址、选项与状态的名不变；办事的是新的 SDK（``tests/system/js``）。"""

from __future__ import annotations

import pytest

from tests.support.scripted_server import Peer, Signal, playing, stay
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser
from tests.system.web.steps import open_inbox


@pytest.mark.parametrize(
    ("notice", "code"), [("draining", 4000), ("node_unhealthy", 4007)], ids=lambda value: str(value)
)
async def test_lesson_1_a_server_that_sends_us_away_tells_the_window(
    browser: Browser, server: ServerProcess, notice: str, code: int
) -> None:
    """平常的退避长到测试等不起：连上了就说明听了服务器的。"""

    async def sends_away(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "notice", "code": notice, "reconnect_after_ms": 1})
        await peer.close(code, notice)

    async def second(peer: Peer) -> None:
        back.set()
        await stay(peer)

    back = Signal()
    page = await browser.page()
    await page.call("Page.setBypassCSP", enabled=True)  # 照剧本演的服务器在另一个端口
    await open_inbox(page, server)
    async with playing(sends_away, second) as script:
        await page.evaluate(
            f"""import('/static/push-client.js').then(({{ PushClient }}) => new PushClient({{
              url: '{script.url}', userId: 1, getToken: async () => 't', onMessages() {{}},
              backoffBaseMs: 1e9, backoffCapMs: 1e9,
            }}).start())"""
        )
        await back.wait()
