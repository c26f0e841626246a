"""读终局：先问产品自己（REST），再直接读 Redis 与 SQL。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from .delivery_reader import DeliveryReader
from .final_state import FinalState, MessageRow, Report
from .ledger import Ledger
from .reading import Reading
from .town import Town

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
