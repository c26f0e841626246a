"""放行的速度：突发之内不等，之外匀速、先来先进，队有上限。"""

from __future__ import annotations

import asyncio
from functools import partial

from meeting_push.limits.rate import RefusalPace
from meeting_push.protocol.limits import ArrivalLimits
from meeting_push.websocket.admission import Admission, Deadlines, Places, Turnstile

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


def admission(pace: RefusalPace) -> Admission:
    return Admission(ArrivalLimits(100, 0, 100, 100, 0, failure_delay_s=0), pace)


async def test_a_refusal_waits_for_its_time_and_only_for_it() -> None:
    """A8、A14：一再被拒绝的等够才听到，别人的立即。"""
    door = admission(RefusalPace(per_s=0.001, burst=1, delay_s=STEP_S))
    loop = asyncio.get_running_loop()
    await door.keep_waiting("flood")
    started = loop.time()
    await door.keep_waiting("flood")
    assert loop.time() - started >= STEP_S / 2
    assert door.failure_delay_s("bob") == 0
    assert door.failure_delay_s("bob") > 0


async def test_nobody_keeps_waiting_while_it_shuts_down() -> None:
    door = admission(RefusalPace(per_s=0.001, burst=1, delay_s=1_000))
    await door.keep_waiting("flood")
    waiting = asyncio.create_task(door.keep_waiting("flood"))
    await asyncio.sleep(0)
    door.stop_waiting()
    await waiting


async def test_who_leaves_the_queue_is_not_let_in() -> None:
    turnstile = Turnstile(1 / STEP_S, burst=1, max_waiting=2)
    entered: list[str] = []
    last = asyncio.Event()

    def let_in(name: str) -> None:
        entered.append(name)
        if name == "c":
            last.set()

    for name in "abc":
        assert turnstile.queue(name, partial(let_in, name))
    turnstile.leave("b")
    await asyncio.wait_for(last.wait(), 10)
    assert entered == ["a", "c"]


async def test_a_deadline_that_was_met_does_not_expire() -> None:
    late: list[str] = []
    expired = asyncio.Event()

    def on_late(who: str) -> None:
        late.append(who)
        expired.set()

    deadlines = Deadlines(0.01, on_late)
    for who in ("in time", "late"):
        deadlines.start(who)
    deadlines.stop("in time")
    await asyncio.wait_for(expired.wait(), 10)
    assert late == ["late"]


async def test_a_deadline_starts_when_it_is_started() -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Queue[float] = asyncio.Queue()
    deadlines = Deadlines(0.05, lambda _who: ended.put_nowait(loop.time()))
    deadlines.start("first")
    await asyncio.sleep(0.03)
    second = loop.time()
    deadlines.start("second")
    async with asyncio.timeout(10):
        await ended.get()
        assert await ended.get() - second > 0.045


async def test_places_are_given_in_the_order_of_asking() -> None:
    places = Places(1)
    order: list[str] = []
    places.enter(lambda: order.append("a"))
    places.enter(lambda: order.append("b"))
    assert order == ["a"]
    places.leave()
    assert order == ["a", "b"]


async def test_who_is_cancelled_while_waiting_holds_no_place() -> None:
    places = Places(1)

    async def visit() -> None:
        async with places:
            pass

    places.enter(lambda: None)
    waiting = asyncio.create_task(visit())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    places.leave()
    await asyncio.wait_for(visit(), 10)


async def test_a_place_is_given_back_once() -> None:
    places = Places(1)
    places.enter(lambda: None)
    leave = places.once()
    leave()
    leave()
    entered: list[int] = []
    for number in (1, 2):
        places.enter(lambda number=number: entered.append(number))  # type: ignore[misc]
    assert entered == [1]
