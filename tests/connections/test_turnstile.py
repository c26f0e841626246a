"""放行的速度：突发之内不等，之外匀速、先来先进，队有上限。"""

from __future__ import annotations

import asyncio

from meeting_push.websocket.admission import Turnstile

STEP_S = 0.005


async def test_a_burst_does_not_wait() -> None:
    turnstile = Turnstile(per_s=0.001, burst=3, max_waiting=0)
    assert [await turnstile.turn() for _ in range(4)] == [True, True, True, False]


async def test_beyond_the_burst_it_is_first_come_first_served() -> None:
    turnstile = Turnstile(1 / STEP_S, burst=1, max_waiting=10)
    served: list[int] = []

    async def come(number: int) -> None:
        assert await turnstile.turn()
        served.append(number)

    await asyncio.gather(*map(come, range(10)))
    assert served == list(range(10))


async def test_the_rate_is_kept() -> None:
    turnstile = Turnstile(1 / STEP_S, burst=1, max_waiting=20)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*(turnstile.turn() for _ in range(20)))
    assert loop.time() - started >= 19 * STEP_S * 0.9


async def test_a_full_queue_refuses_at_once() -> None:
    turnstile = Turnstile(per_s=0.001, burst=1, max_waiting=1)
    assert await turnstile.turn()
    waiting = asyncio.create_task(turnstile.turn())
    await asyncio.sleep(0)
    assert turnstile.waiting == 1
    assert not await turnstile.turn()
    waiting.cancel()


async def test_those_who_leave_give_up_their_place() -> None:
    turnstile = Turnstile(1 / STEP_S, burst=1, max_waiting=2)
    assert await turnstile.turn()
    leaver, patient = (asyncio.create_task(turnstile.turn()) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    assert turnstile.waiting == 1
    assert await patient
