"""浏览器客户端：能声称的位置、等着认下的确认、何时再来。在真实的浏览器里执行真实的模块。"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted_server import Peer, Signal, playing, stay
from tests.support.server_process import ServerProcess
from tests.system.web.browser import Browser, Page
from tests.system.web.steps import open_inbox

WELCOME = {"epoch": "e", "seq": 7, "resumed": False, "pending": 3}
Step = tuple[str, Any]


@pytest.fixture
async def page(browser: Browser, server: ServerProcess) -> Page:
    page = await browser.page()
    await open_inbox(page, server)
    return page


async def claim(page: Page, *steps: Step) -> Any:
    """在一个新的 ``Position`` 上依次做 ``steps``，返回它能声称的位置。"""
    return await page.evaluate(
        f"""import('/static/position.js').then(({{ Position }}) => {{
          const position = new Position();
          for (const [name, value] of {json.dumps(steps)}) position[name](value);
          return position.claim;
        }})"""
    )


def at(seq: int, epoch: str = "e") -> dict[str, object]:
    return {"epoch": epoch, "last_seq": seq}


def applied(*seqs: int) -> list[Step]:
    return [("applied", seq) for seq in seqs]


async def test_dlv_5_nothing_is_claimed_while_the_backlog_is_still_coming(page: Page) -> None:
    assert await claim(page, ("opened", WELCOME), *applied(7, 2)) is None


async def test_after_the_backlog_the_newest_seq_is_claimed(page: Page) -> None:
    assert await claim(page, ("opened", WELCOME), *applied(7, 2, 4)) == at(7)


async def test_an_empty_mailbox_is_a_complete_backlog(page: Page) -> None:
    assert await claim(page, ("opened", {**WELCOME, "pending": 0})) == at(7)


async def test_the_first_live_message_ends_a_backlog_shorter_than_announced(page: Page) -> None:
    assert await claim(page, ("opened", WELCOME), *applied(2, 8)) == at(8)


async def test_a_repeated_message_is_not_counted_twice(page: Page) -> None:
    assert await claim(page, ("opened", WELCOME), *applied(2, 2, 2)) is None


async def test_dlv_5_a_hole_in_the_live_messages_is_not_claimed(page: Page) -> None:
    live = [("opened", {**WELCOME, "pending": 0}), *applied(8, 10)]
    assert await claim(page, *live) == at(8)
    assert await claim(page, *live, ("gap", {"from_seq": 9, "to_seq": 9})) == at(10)


async def test_a_resumed_connection_keeps_the_old_position_until_it_has_caught_up(
    page: Page,
) -> None:
    first = [("opened", {**WELCOME, "pending": 0})]
    again = ("opened", {"epoch": "e", "seq": 9, "resumed": True, "pending": 1})
    assert await claim(page, *first, again) == at(7)
    assert await claim(page, *first, again, *applied(9, 8)) == at(9)


async def test_a_refused_resume_drops_the_position(page: Page) -> None:
    first = [("opened", {**WELCOME, "pending": 0})]
    again = ("opened", {"epoch": "new", "seq": 2, "resumed": False, "pending": 1})
    assert await claim(page, *first, again) is None
    assert await claim(page, *first, again, *applied(2)) == at(2, "new")


async def test_a_resync_on_a_live_connection_moves_the_position(page: Page) -> None:
    live = [("opened", {**WELCOME, "pending": 0}), *applied(8)]
    resync = ("resynced", {"epoch": "new", "seq": 1})
    assert await claim(page, *live, resync) == at(1, "new")


async def test_dlv_1_an_ack_in_flight_is_sent_again_on_the_next_connection(page: Page) -> None:
    sent = await page.evaluate(
        """import('/static/acks.js').then(({ Acks }) => {
          const acks = new Acks();
          const sent = [];
          const take = () => sent.push(acks.take()?.message_ids ?? null);
          acks.add('a'); acks.add('b'); take(); take();
          acks.confirmed(1); acks.add('c'); take();
          acks.add('d'); acks.reopen(); take();
          return sent;
        })"""
    )
    assert sent == [["a", "b"], None, ["c"], ["c", "d"]]


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
