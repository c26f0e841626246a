"""信箱溢出了：挤出该走的，记为 failed，让发送者看得见；没有人再等的，还回它占的内存。

谁该走由 ``evict.lua`` 选（占得最多的发送者的，里面最不急的、最早的），同时立下墓碑；然后与别的失败
同一个次序：先 SQL，后 Redis（状态、死信、移出信箱）。死在哪里都不丢：下一次溢出再选到它。
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ..errors import MeetingPushError
from ..isolation import Aside
from ..model import Origin
from ..redis.mailboxes import CALL_EVICTIONS
from ..repeated_warning import RepeatedWarning
from ..storage.id_pairs import Pair
from ..storage.outcomes import OutcomeRepository
from ..supervision import periodically
from .offline_message_queue import OfflineMessageQueue

EVICTED: Final = "mailbox_evicted"
#: 一轮看多少个用户的信箱：他们的失败一个 SQL 事务记下。
USERS: Final = 50
#: 别人写进信箱的，数据库未必读得懂。
ULID_LENGTH: Final = 26
#: 记录与正文都没有了的。
UNKNOWN: Final = Origin(0, 0)

#: 把 (message_id, user_id) 里还没有结局的记为失败，附原因；幂等。见 ``DeliveryFailures.fail``。
RecordFailed = Callable[[Sequence[Pair], str], Awaitable[object]]


class MailboxEvictor:
    """凡是投递的进程都有一个；``run`` 由监督者重启。几个进程同时挤一个信箱也无害。"""

    def __init__(
        self,
        mailbox: OfflineMessageQueue,
        record: OutcomeRepository,
        record_failed: RecordFailed,
        aside: Aside | None = None,
    ) -> None:
        self._mailbox = mailbox
        self._record = record
        self._record_failed = record_failed
        self._aside = aside or Aside("evictions")
        self._deferred = RepeatedWarning("evictions_deferred")
        #: 本进程挤出的条数。
        self.evicted = 0

    async def run(self) -> None:
        await periodically(self.sweep, self._mailbox.overflowed.wait, self._deferred)

    async def sweep(self) -> None:
        """挤到没有信箱溢出为止；数据坏了的信箱放过，它不该挡住别人的。

        :raises MeetingPushError: 依赖暂时不在；没挤完的还记着
        """
        while users := self._mailbox.take_overfull(USERS):
            try:
                await self._aside.isolate(users, self._evict)
            except MeetingPushError:
                self._mailbox.note_overfull(users)
                raise

    async def _evict(self, users: Sequence[int]) -> None:
        chosen = await self._choose(users)
        pairs = [(message_id, user_id) for user_id, ids in chosen.items() for message_id in ids]
        await self._aside.isolate(pairs, self._fail)
        # 余下的早有结局，或不是经 MessageService 来的（没有记录），或记不下
        await self._mailbox.remove(list(chosen.items()))
        await self._mailbox.give_back(await self._record.unwanted(sorted({i for i, _ in pairs})))
        self._mailbox.note_overfull([u for u, ids in chosen.items() if len(ids) >= CALL_EVICTIONS])
        self._mailbox.note_trimmed(users)
        self.evicted += len(pairs)

    async def _fail(self, pairs: Sequence[Pair]) -> None:
        await self._record_failed(pairs, EVICTED)

    async def _choose(self, users: Sequence[int]) -> dict[int, list[str]]:
        """各人的信箱里该走的。先认清各条是谁发的、多急：记录里有，一次问齐。"""
        asked = {user_id: await self._mailbox.evict(user_id) for user_id in users}
        unknown = {i for _, strangers in asked.values() for i, _ in strangers}
        origins = await self._origins(sorted(unknown))
        chosen = {}
        for user_id, (gone, strangers) in asked.items():
            if strangers:
                told = [(seq, origins.get(i, UNKNOWN)) for i, seq in strangers]
                gone, _ = await self._mailbox.evict(user_id, told)
            chosen[user_id] = gone
        return chosen

    async def _origins(self, message_ids: Sequence[str]) -> dict[str, Origin]:
        ours = [i for i in message_ids if len(i) == ULID_LENGTH and i.isalnum()]
        known = await self._record.origins(ours)
        missing = [message_id for message_id in message_ids if message_id not in known]
        return known | await self._mailbox.origins(missing)
