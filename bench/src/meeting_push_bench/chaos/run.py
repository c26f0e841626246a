"""一次完整的混乱：起来、折腾、平静、读终局；产物是一份历史。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..accounts import make_accounts
from ..failure import BenchError
from ..progress import Steps
from .crier import Crier
from .drain import drain, read_final
from .history import Began, Ended, HistoryWriter, now_ms
from .injector import Injector
from .ledger import Ledger
from .losses import redriven_by
from .observer import Observer
from .operator import Operator
from .phone import Phone, phones_of
from .plan import ChaosPlan
from .reading import Reading, open_reading
from .schedule import Schedule, make_schedule
from .stillness import watch_stillness
from .town import Ground, Town, open_town
from .writers import Writers

_PROGRESS_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Scene:
    """一次运行里各步都要用的。"""

    plan: ChaosPlan
    town: Town
    ledger: Ledger
    reading: Reading
    history: HistoryWriter
    phones: Sequence[Phone]
    steps: Steps


async def run_chaos(plan: ChaosPlan, ground: Ground, history_path: Path, steps: Steps) -> None:
    """写出 ``history_path``；只启动、只结束自己的进程。

    :raises BenchError: 没有跑完（进程起不来、库不是空的、服务器拒绝合规的请求 …）
    """
    schedule = make_schedule(plan)
    history = HistoryWriter(history_path)
    try:
        history.write(Began(at=now_ms(), plan=plan))
        async with contextlib.AsyncExitStack() as stack:
            with steps.step("start the servers"):
                town = await stack.enter_async_context(open_town(plan, ground, history))
                reading = await stack.enter_async_context(open_reading(town))
                ledger = await _people(plan, schedule, town, reading)
            phones = list(phones_of(town, ledger, history, plan.devices_per_user))
            scene = _Scene(plan, town, ledger, reading, history, phones, steps)
            await _disturb(scene)
            await _finish(scene)
    except BaseExceptionGroup as group:
        raise _leaf(group) from None  # 一行字就够：任务组里第一个出错的
    finally:
        history.close()


async def _people(plan: ChaosPlan, schedule: Schedule, town: Town, reading: Reading) -> Ledger:
    """注册发送者与收件人。"""
    if await reading.sql.messages():
        raise BenchError("the database holds messages already; give an empty one")
    # make_accounts 自己带一个事件循环
    accounts = await asyncio.to_thread(
        make_accounts, town.apis[0].target, plan.senders - 1 + plan.users
    )
    ids = [accounts.sender_id, *accounts.recipient_ids]
    return Ledger(schedule, senders=ids[: plan.senders], users=ids[plan.senders :])


async def _disturb(scene: _Scene) -> None:
    """直到计划的消息全部发完、故障全部恢复。"""
    schedule = scene.ledger.schedule
    writers = Writers(scene.town, scene.ledger, scene.history)
    stays = zip(scene.phones, schedule.stays, strict=True)
    with scene.steps.step("chaos") as on_progress:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(_observer(scene).run()),
                group.create_task(watch_stillness(scene.history)),
                group.create_task(Operator(scene.town, scene.ledger, scene.history).run()),
                *(group.create_task(phone.run(each)) for phone, each in stays),
            ]
            faults = group.create_task(_injector(scene).run(schedule.faults))
            crying = group.create_task(Crier(scene.town, schedule, scene.history).run())
            writing = group.create_task(writers.run(scene.plan.writers))
            while not (writing.done() and faults.done() and crying.done()):
                on_progress(writers.progress, len(schedule.posts))
                await asyncio.sleep(_PROGRESS_S)
            _cancel(background)


async def _finish(scene: _Scene) -> None:
    """全部设备在线，收干净，读终局。"""
    await scene.town.wait_ready()
    with scene.steps.step("drain"):
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(_observer(scene).run()),
                group.create_task(watch_stillness(scene.history)),
                *(group.create_task(phone.drain()) for phone in scene.phones),
            ]
            drained = await drain(scene.reading, scene.ledger, scene.plan.patience_s)
            _cancel(background)
    with scene.steps.step("read the final state"):
        final = await read_final(scene.town, scene.ledger, scene.reading, scene.plan.report_every)
    redriven = redriven_by(scene.town.logs())
    scene.history.write(Ended(at=now_ms(), drained=drained, redriven=redriven, final=final))


def _injector(scene: _Scene) -> Injector:
    return Injector(scene.town, scene.reading.stored, scene.ledger.users, scene.history)


def _observer(scene: _Scene) -> Observer:
    return Observer(scene.town, scene.ledger, scene.reading, scene.history)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """TaskGroup 等它们退出；取消不算失败。"""
    for task in tasks:
        task.cancel()
