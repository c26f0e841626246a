"""收尾：故障停了，全部设备在线，直到信箱里只剩故意不确认的；再读终局。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .delivery_reader import DeliveryReader
from .final_state import FinalState, MessageRow, Report
from .ledger import Ledger
from .patience import Patience
from .reading import Reading
from .town import Town

_POLL_S: Final = 0.5


class Level(NamedTuple):
    """还剩多少；全部不再变化而又没到底，就是卡住了。"""

    moving: int
    outbox: int
    delayed: int
    mailboxes: int
    held: int
    pending: int

    @property
    def settled(self) -> bool:
        """没有还会动的，信箱里只有故意留下的，pending 恰是它们加上没到期的。"""
        return (
            (self.moving, self.outbox) == (0, 0)
            and self.mailboxes == self.held
            and self.pending == self.held + self.delayed
        )


async def drain(reading: Reading, ledger: Ledger, patience_s: float) -> bool:
    """False：``patience_s`` 秒没有任何进展；终局照样去读，由检查者说出是哪些。"""
    level, patience = await _level(reading, ledger), Patience(patience_s)
    while not level.settled:
        await asyncio.sleep(_POLL_S)
        now = await _level(reading, ledger)
        if now != level:
            level, patience = now, Patience(patience_s)
        elif patience.over():
            return False
    return True


async def _level(reading: Reading, ledger: Ledger) -> Level:
    stored = reading.stored
    boxes = await asyncio.gather(*(stored.mailbox(user_id) for user_id in ledger.users))
    entries = [message_id for box in boxes for message_id, _ in box.entries]
    outbox, pending = await reading.sql.outbox_and_pending()
    return Level(
        moving=await stored.moving(),
        outbox=outbox,
        delayed=await stored.delayed_pairs(),
        mailboxes=len(entries),
        held=sum(message_id in ledger.held for message_id in entries),
        pending=pending,
    )


_READERS: Final = 8


async def read_final(town: Town, ledger: Ledger, reading: Reading, report_every: int) -> FinalState:
    """:raises BenchError: 产品不回答一条消息的投递状态"""
    messages = await reading.sql.messages()
    boxes = await asyncio.gather(*(reading.stored.mailbox(user_id) for user_id in ledger.users))
    return FinalState(
        messages=messages,
        recipients=await reading.sql.recipients(),
        mailboxes=tuple(boxes),
        queued=await reading.stored.queued(),
        dead=await reading.stored.dead(),
        reports=await _reports(town, messages[::report_every]),
    )


async def _reports(town: Town, messages: Sequence[MessageRow]) -> tuple[Report, ...]:
    rows = iter(messages)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_read_each(town, number, rows)) for number in range(_READERS)]
    return tuple(report for task in tasks for report in task.result())


async def _read_each(town: Town, number: int, rows: Iterator[MessageRow]) -> list[Report]:
    reader = DeliveryReader(town.apis[number % len(town.apis)].target)
    try:
        return [await reader.read(row.message_id, row.sender_id) for row in rows]
    finally:
        await reader.close()
