"""旁观者：运行途中就去看，不等终局。

- 已确认的何时离开信箱，离开时 SQL 里有没有记录（先读 Redis，后读 SQL：先移出的就露馅）；
- 产品此刻怎么说一条消息（``delivered`` 须在 ack 之后，而且不收回）。
"""

from __future__ import annotations

import asyncio
from typing import Final

from meeting_push.errors import MeetingPushError

from ..failure import BenchError
from .delivery_reader import DeliveryReader
from .history import HistoryWriter, Observed, SeenState, Settled, Unrecorded, now_ms
from .ledger import Ledger
from .reading import Reading
from .town import Town

#: 每轮隔多久；一次问一个用户的至多多少条；每轮抽查几条消息。
_ROUND_S: Final = 0.4
_MAX_IDS: Final = 500
_SAMPLES: Final = 4


class Observer:
    """``run`` 直到被取消；读不到（Redis 正在重启）就跳过这一轮。"""

    def __init__(
        self, town: Town, ledger: Ledger, reading: Reading, history: HistoryWriter
    ) -> None:
        self._ledger = ledger
        self._reading = reading
        self._history = history
        self._reader = DeliveryReader(town.apis[0].target)

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(_ROUND_S)
                await self._look()
        finally:
            await self._reader.close()

    async def _look(self) -> None:
        for user_id in self._ledger.users:
            try:
                await self._settle(user_id)
            except MeetingPushError:
                break  # Redis 或 SQL 此刻不在：下一轮再看
        await self._sample()

    async def _settle(self, user_id: int) -> None:
        waiting = self._ledger.unsettled[user_id]
        ids = list(waiting)[:_MAX_IDS]
        if not ids:
            return
        absent = await self._reading.stored.absent(user_id, ids)
        pending = await self._reading.sql.pending(user_id, absent) if absent else set()
        self._note(user_id, absent, pending)
        for message_id in ids:
            del waiting[message_id]
        # 还在信箱的（确认可能丢在断开的连接里）排到后面，不挡住别的
        gone = set(absent)
        waiting.update(dict.fromkeys(i for i in ids if i not in gone))

    def _note(self, user_id: int, absent: list[str], pending: set[str]) -> None:
        settled = tuple(message_id for message_id in absent if message_id not in pending)
        if settled:
            self._history.write(Settled(at=now_ms(), user_id=user_id, message_ids=settled))
        if pending:
            unrecorded = tuple(sorted(pending))
            self._history.write(Unrecorded(at=now_ms(), user_id=user_id, message_ids=unrecorded))

    async def _sample(self) -> None:
        recent = list(self._ledger.accepted)
        for message_id, sender_id in recent[:: max(1, len(recent) // _SAMPLES)][:_SAMPLES]:
            try:
                report = await self._reader.read(message_id, sender_id)
            except BenchError:
                return  # api 正在重启
            states = tuple(SeenState(*state) for state in report.states)
            self._history.write(Observed(at=now_ms(), message_id=message_id, states=states))
