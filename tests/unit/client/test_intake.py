"""有界队列：背压、结束、取消。"""

from __future__ import annotations

import asyncio

from meeting_push.client.intake import Inbox


async def test_put_waits_while_full() -> None:
    inbox: Inbox[int] = Inbox(1)
    await inbox.put(1)
    second = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    assert inbox.full
    assert not second.done()
    assert [await inbox.get(), await inbox.get()] == [1, 2]
    await second


async def test_end_wakes_everyone() -> None:
    inbox: Inbox[int] = Inbox(1)
    getters = [asyncio.create_task(inbox.get()) for _ in range(2)]
    await asyncio.sleep(0)
    inbox.end()
    assert await asyncio.gather(*getters) == [None, None]


async def test_end_releases_a_waiting_put() -> None:
    inbox: Inbox[int] = Inbox(1)
    await inbox.put(1)
    second = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    inbox.end()
    await second
    assert await inbox.get() is None


async def test_a_cancelled_get_takes_nothing() -> None:
    inbox: Inbox[int] = Inbox(1)
    getter = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    await inbox.put(1)
    getter.cancel()
    await asyncio.wait({getter})
    assert await inbox.get() == 1


async def test_clear_makes_room() -> None:
    inbox: Inbox[int] = Inbox(1)
    await inbox.put(1)
    second = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    assert inbox.clear() == [1]
    await second
    assert await inbox.get() == 2
