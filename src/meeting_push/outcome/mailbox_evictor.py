"""信箱溢出了：挤出该走的，记为 failed，让发送者看得见；没有人再等的，还回它占的内存。

选出该走的，``evict.lua`` 立下墓碑；然后与别的失败同一个次序：先 SQL，后 Redis（状态、死信、移出
信箱）。死在哪里都不丢：立了碑而还在信箱里的，下一次先做完。

满了的信箱先挤谁（ADR 0010）：占得最多的发送者的；他的里面最不急的，再最早的。
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import MeetingPushError
from ..logs import RepeatedWarning
from ..mailbox_model import Origin, OverfullMailbox
from ..storage.id_list import Recipient
from ..storage.outcomes import OutcomeRepository
from ..supervision import Aside, periodically

EVICTED: Final = "mailbox_evicted"
#: 一轮看多少个用户的信箱，一共挤出多少条：一个 SQL 事务记下，几毫秒，别人的发送等得起。
USERS: Final = 20
EVICTIONS: Final = 500
#: 攒一会儿再挤：每一轮都要看整个信箱（一千多条，几毫秒），洪水里一次只多出几条。
GATHER_S: Final = 0.1
#: 别人写进信箱的，数据库未必读得懂。
ULID_LENGTH: Final = 26
#: 记录与正文都没有了的。
UNKNOWN: Final = Origin(0, 0)

#: 把 (message_id, user_id) 里还没有结局的记为失败，附原因；幂等。见 ``DeliveryFailures.fail``。
RecordFailed = Callable[[Sequence[Recipient], str], Awaitable[object]]


class MailboxEvictor:
    """凡是投递的进程都有一个；``run`` 由监督者重启。几个进程同时挤一个信箱也无害。"""

    def __init__(
        self,
        mailbox: OfflineMessageQueue,
        record: OutcomeRepository,
        record_failed: RecordFailed,
        aside: Aside,
    ) -> None:
        self._mailbox = mailbox
        self._record = record
        self._record_failed = record_failed
        self._aside = aside
        self._deferred = RepeatedWarning("evictions_deferred")
        #: 本进程挤出的条数。
        self.evicted = 0

    async def run(self) -> None:
        await periodically(self.round, self._until_noted, self._deferred)

    async def _until_noted(self) -> None:
        await self._mailbox.overflow.noted.wait()
        await asyncio.sleep(GATHER_S)

    async def sweep(self) -> None:
        """挤到没有信箱溢出为止；数据坏了的信箱放过，它不该挡住别人的。

        :raises MeetingPushError: 依赖暂时不在；没挤完的还记着
        """
        while await self.round():
            pass

    async def round(self) -> bool:
        """挤一轮；False = 没有信箱溢出着。错误同 ``sweep``。"""
        users = self._mailbox.overflow.take(USERS)
        if not users:
            return False
        try:
            await self._aside.isolate(users, self._evict)
        except MeetingPushError:
            self._mailbox.overflow.note(users)
            raise
        return True

    async def _evict(self, users: Sequence[int]) -> None:
        chosen, more = await self._choose(users)
        pairs = [(message_id, user_id) for user_id, ids in chosen.items() for message_id in ids]
        await self._aside.isolate(pairs, self._fail)
        # 余下的早有结局，或不是经 MessageService 来的（没有记录），或记不下
        await self._mailbox.remove(list(chosen.items()))
        await self._mailbox.give_back(await self._record.unwanted(sorted({i for i, _ in pairs})))
        # 没挤够的先记上：等着他们的人等到下一轮
        self._mailbox.overflow.note(more)
        self._mailbox.overflow.note_trimmed(users)
        self.evicted += len(pairs)

    async def _fail(self, pairs: Sequence[Recipient]) -> None:
        await self._record_failed(pairs, EVICTED)

    async def _choose(self, users: Sequence[int]) -> tuple[dict[int, list[str]], list[int]]:
        """各人的信箱里该走的；以及这一轮没挤够的人。"""
        room = EVICTIONS // len(users)
        seen = {user_id: await self._mailbox.overfull(user_id) for user_id in users}
        # 上次立了碑没做完的先做完
        missing = {u: min(self._excess(one), room - len(one.leaving)) for u, one in seen.items()}
        strangers = {u: _strangers(one) for u, one in seen.items() if missing[u] > 0}
        found = await self._origins(sorted({i for each in strangers.values() for i, _ in each}))
        chosen, more = {}, []
        for user_id, one in seen.items():
            new = {seq: found.get(i, UNKNOWN) for i, seq in strangers.get(user_id, ())}
            marked = await self._mark(user_id, one, new, missing[user_id])
            chosen[user_id] = one.leaving + marked
            if chosen[user_id] and self._excess(one) > len(marked):
                more.append(user_id)
        return chosen, more

    def _excess(self, one: OverfullMailbox) -> int:
        return len(one.held) - self._mailbox.max_entries

    async def _mark(
        self, user_id: int, one: OverfullMailbox, new: dict[int, Origin], how_many: int
    ) -> list[str]:
        if how_many <= 0:
            return []
        origins = one.origins | new
        gone = choose(one.held, origins, how_many)
        kept: dict[int, Origin] = {}
        if new:
            going = set(gone)
            kept = {seq: origins[seq] for i, seq in one.held if i not in going}
        return await self._mailbox.mark_evicted(user_id, gone, kept)

    async def _origins(self, message_ids: Sequence[str]) -> dict[str, Origin]:
        ours = [i for i in message_ids if len(i) == ULID_LENGTH and i.isalnum()]
        known = await self._record.origins(ours)
        missing = [message_id for message_id in message_ids if message_id not in known]
        return known | await self._mailbox.origins(missing)


def _strangers(one: OverfullMailbox) -> list[tuple[str, int]]:
    """还不知道是谁发的那几条。"""
    return [(message_id, seq) for message_id, seq in one.held if seq not in one.origins]


#: 信箱里的一条：(message_id, seq)。
Held = tuple[str, int]


def choose(held: Sequence[Held], origins: Mapping[int, Origin], excess: int) -> list[str]:
    """该走的至多 ``excess`` 条的 message_id，按走的次序。

    占得一样多的发送者，比各自该走的那一条。

    :param origins: seq → 谁发的、多急；没有的那几条不选，也不算在谁的份里
    """
    if excess <= 0:
        return []
    shares: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for message_id, seq in held:
        if (origin := origins.get(seq)) is not None:
            shares[origin.sender_id].append((origin.priority, seq, message_id))
    for share in shares.values():
        heapq.heapify(share)
    # 堆顶：占得最多的；一样多则他该走的那一条最不急、最早（seq 各不相同，比不到后面）
    largest = [(-len(share), *share[0][:2], sender) for sender, share in shares.items()]
    heapq.heapify(largest)
    chosen: list[str] = []
    while largest and len(chosen) < excess:
        sender = largest[0][-1]
        share = shares[sender]
        chosen.append(heapq.heappop(share)[-1])
        if share:
            heapq.heapreplace(largest, (-len(share), *share[0][:2], sender))
        else:
            heapq.heappop(largest)
    return chosen
