"""对账：SQL 是记录，Redis 丢了数据就从记录重新投递（DLV-1，LESSONS 12）。

怎样知道丢过：Redis 与 SQL 各存一份（代次, 记号），记号每隔几秒先在 Redis、后在 SQL 加一。
Redis 里没有代次 = 被清空；记号比 SQL 的旧 = 换上了旧的 AOF 或快照。丢的若还不到一个记号，
由“重启之后的检查”找证据。

丢过之后：SQL 里代次加一 → 清空队列 → （旧快照）把已有结局的移出信箱 → Redis 里换代次 →
把丢了的广播放回发件箱 → 逐页把没有送达的放回发件箱，由中继按队列的余地入队 → 补回广播的游标。
epoch 带着代次：旧代次的 epoch 作废，每台设备得到 ``resync``。每一步都可重做；做的人死了，租约
到期后别的节点从 ``cursor`` 接着做。

同时只有一个节点做：租约在 SQL 里，因为此时不可信的正是 Redis。

换了连接（重启、主从切换）而记号没有落后的：各进程看自己最后写的一条还在不在（``LastWrite``），
不在就把记号写成负的，由持有租约的那个按“旧了”处理。

换了主（Sentinel、Cluster）的总换代次：旧的主也许只是挂着，醒来会用掉新的主又要用的号（决定 0018）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..accept.outbox_relay import MARK_EVERY_S, OutboxRelay
from ..clock import Clock, now_ms
from ..deliver.offline_message_queue import OfflineMessageQueue
from ..errors import DatabaseUnavailableError
from ..logs import RepeatedWarning, logger
from ..node_identity import NodeIdentity
from ..queue.message_queue import MessageQueue
from ..redis.claims import GenerationMark, RedisMark
from ..storage.fleet import Generation, GenerationRepository
from ..storage.id_list import Recipient
from ..storage.outcomes import UndeliveredRepository, oldest_possible
from ..supervision import periodically
from .broadcasts import BroadcastRecovery
from .page_walk import PageWalk

#: 清空队列之后等这么久：别的节点刚入队、正要记下的，先让它记完，否则会盖掉我们放回的；
#: 消费者手里的也让它做完。
SETTLE_S: Final = 4 * MARK_EVERY_S
#: 页与页之间歇这么久：对账不与正常的流量抢数据库。
PAGE_PAUSE_S: Final = 0.02
#: 旧快照的时刻不精确到记号，多移出一些（都已有结局，无害）。
SNAPSHOT_MARGIN_MS: Final = 60_000
#: 掉队检查一页至多看多少行收件人，一遍至多花多久：走不完的下一遍接着走。
STRAGGLER_ROWS: Final = 1_000
STRAGGLER_BUDGET_S: Final = 0.3
#: 旧快照里有结局的移不出来（数据库太慢）：试这么多次就算了，多收一遍同一个 id 无害。
REMOVE_TRIES: Final = 12
#: 排在一条消息的全部收件人之后。
_LAST_USER: Final = 2**63 - 1
#: 预约最远一年，加上最长的有效期；更早的消息都已过期。
HORIZON_MS: Final = 400 * 86_400_000


@dataclass(frozen=True, slots=True)
class ReconcilerRules:
    """``straggler_after_ms``：入队这么久还毫无痕迹才算掉队。"""

    interval_s: float
    straggler_interval_s: float
    straggler_after_ms: int
    settle_s: float = SETTLE_S

    @property
    def lease_ms(self) -> int:
        return int(max(self.interval_s * 5, 10) * 1000)


@dataclass(frozen=True, slots=True)
class ReconcilerStatistics:
    generation: int
    recoveries: int
    reopened: int
    stragglers: int


class Reconciler:
    """每个节点一个；``run`` 由监督者一直运行。``on_generation``：代次变了，重读活着的连接。"""

    def __init__(
        self,
        node: NodeIdentity,
        *,
        mark: GenerationMark,
        generations: GenerationRepository,
        undelivered: UndeliveredRepository,
        queue: MessageQueue,
        mailbox: OfflineMessageQueue,
        relay: OutboxRelay,
        broadcasts: BroadcastRecovery,
        rules: ReconcilerRules,
        on_generation: Callable[[], None],
        ours: Callable[[], bool] = lambda: True,
        clock: Clock = now_ms,
    ) -> None:
        self._node = node
        self._mark = mark
        self._generations = generations
        self._undelivered = undelivered
        self._queue = queue
        self._mailbox = mailbox
        self._relay = relay
        self._broadcasts = broadcasts
        self._rules = rules
        self._on_generation = on_generation
        self._ours = ours
        self._clock = clock
        #: 在 Redis 里见过的最新的（代次, 记号）。
        self._newest = (0, 0)
        self._run_id = ""
        #: 重启过而没有证据的：要检查的入队时刻区间
        self._suspect: tuple[int, int] | None = None
        self._walk = PageWalk()
        #: 掉队检查走到哪里了；None = 从头。
        self._straggler_at: Recipient | None = None
        self._next_straggler = 0.0
        self._deferred = RepeatedWarning("reconcile_deferred")
        self._recoveries = self._reopened = self._stragglers = 0

    @property
    def statistics(self) -> ReconcilerStatistics:
        return ReconcilerStatistics(
            self._mailbox.generation, self._recoveries, self._reopened, self._stragglers
        )

    async def prepare(self, database_id: str | None = None) -> None:
        """投递之前先知道代次；第一次使用时建立它（与这个数据库的 id）。

        :raises UnavailableError: Redis 或数据库不在
        """
        if await self._generations.read() is None:
            mark = await self._mark.read()  # Redis 还留着前一个数据库的：它的 epoch 都要作废
            generation = mark.generation + 1 if mark else 1
            if await self._generations.create(generation, database_id):
                await self._mark.begin(generation, self._clock(), lost=False)
        row = await self._generations.read()
        assert row is not None
        self._mailbox.generation = row.generation
        self._mailbox.presume_emptied(await self._mark.read() is None)

    async def settled(self) -> bool:
        """Redis 里的是我们认得的：没有丢过数据，或已换了代次，这个节点也知道了。

        :raises RedisUnavailableError: 问不到
        """
        mark = await self._mark.read()
        self._mailbox.presume_emptied(mark is None)
        if mark is None or mark.generation != self._mailbox.generation:
            return False
        # SQL 的记号可以落后一个：只旧这么一点的，对账者不会当作丢过
        return (mark.generation, mark.mark + 1) >= self._newest

    async def run(self) -> None:
        await periodically(
            self.tick, partial(asyncio.sleep, self._rules.interval_s), self._deferred
        )

    async def tick(self) -> None:
        """看一眼；持有租约的还要推进记号、必要时恢复。Redis 归了别的数据库就不再碰它。"""
        if not self._ours():
            return
        await self._doubt_if_lost()
        mark = await self._mark.read()
        self._adopt(mark)
        row = await self._leased()
        if row is None:
            return
        reason = _lost(mark, row)
        if reason is None and row.cursor is None:
            run_id = await self._mark.run_id()
            if self._run_id and run_id != self._run_id:
                self._suspect_the_last(mark)
            self._run_id = run_id
            if replaced := await self._mark.replaced(run_id):
                await self._renew(row, mark, run_id)
            if replaced is not False:
                return  # 记号先不走：缺的从它那一刻看起
            await self._advance(row, mark)
            await self._look_for_losses(row, mark)
            return
        if reason is not None:
            row = await self._begin(row, mark, reason)
        await self._redrive(row)

    async def _doubt_if_lost(self) -> None:
        """我们写过、得到过应答的不在了：这个 Redis 缺数据，记号说不出来。"""
        lost = await self._mailbox.last_write.lost()
        if lost is not None and await self._mark.doubt(lost.generation):
            lacking = logger.bind(user_id=lost.user_id, message_id=lost.message_id, seq=lost.seq)
            lacking.warning("redis_lacks_last_write")
        self._mailbox.last_write.told()

    def _adopt(self, mark: RedisMark | None) -> None:
        """Redis 里换了代次：新的 epoch 从此用它，活着的连接都要重读信箱。

        每个主都是这一代了才算：还连着一个被换下的主的，读到的是旧的。
        """
        self._mailbox.presume_emptied(mark is None)
        if mark is None or mark.mark < 0:
            return
        self._newest = max(self._newest, (mark.generation, mark.mark))
        if mark.generation > self._mailbox.generation:
            self._mailbox.generation = mark.generation
            logger.bind(generation=mark.generation).info("generation_adopted")
            self._on_generation()

    async def _leased(self) -> Generation | None:
        """租约在我手里（或刚拿到）时的那一行。"""
        row, now, lease_ms = await self._generations.read(), self._clock(), self._rules.lease_ms
        if row is None:
            return None
        if row.holder == self._node.id and now < row.lease_until <= now + lease_ms:
            return row
        if row.holder != self._node.id and now <= row.lease_until <= now + 2 * lease_ms:
            return None
        if not await self._generations.lease(self._node.id, now, lease_ms):
            return None
        return await self._generations.read()

    async def _renew(self, row: Generation, mark: RedisMark | None, run_id: str) -> None:
        """数据还在，位置都作废：先 SQL，后 Redis；死在中间的，下一个人当作丢过。"""
        generation = row.generation + 1
        if not await self._generations.renew(self._node.id, generation):
            return
        self._suspect_the_last(mark)  # 看见它没有了的也许是别人
        await self._mark.renew(generation, self._clock(), run_id)
        logger.bind(generation=generation).info("generation_renewed")
        self._adopt(RedisMark(generation, 0, 0))

    async def _advance(self, row: Generation, mark: RedisMark | None) -> None:
        """先 Redis，后 SQL：SQL 的记号永远不比没有丢过数据的 Redis 新。"""
        assert mark is not None
        following = max(row.mark, mark.mark) + 1
        now = self._clock()
        if await self._mark.advance(row.generation, following, now):
            await self._generations.advance(self._node.id, following, now + self._rules.lease_ms)

    # ── 恢复 ────────────────────────────────────────────────────────────────

    async def _begin(self, row: Generation, mark: RedisMark | None, reason: str) -> Generation:
        generation = max(row.generation, mark.generation if mark else 0) + 1
        logger.bind(generation=generation, reason=reason).error("redis_lost_data")
        if not await self._generations.begin(self._node.id, generation):
            return row  # 租约丢了：接手的人会再来
        self._recoveries += 1
        await self._queue.streams.clear()
        await asyncio.sleep(self._rules.settle_s)
        if mark is not None:
            await self._remove_finished(mark.at - SNAPSHOT_MARGIN_MS)
        run_id = await self._mark.run_id()
        await self._mark.begin(generation, self._clock(), lost=True, masters=run_id)
        self._adopt(RedisMark(generation, 0, 0))
        return Generation(generation, 0, "", self._node.id, self._clock() + self._rules.lease_ms)

    async def _remove_finished(self, since: int) -> None:
        """旧快照的信箱里有后来已送达的：移出去，免得再来一次。"""
        after: str | None = oldest_possible(self._clock(), HORIZON_MS)
        tries = 0
        while after is not None:
            try:
                after = await self._walk.page(partial(self._remove_page, after, since))
            except DatabaseUnavailableError as error:
                tries += 1
                if tries >= REMOVE_TRIES:
                    logger.bind(cause=error.cause).warning("finished_not_removed")
                    return
            if not await self._keep(""):
                return
            await asyncio.sleep(PAGE_PAUSE_S)

    async def _remove_page(self, after: str, since: int, rows: int) -> str | None:
        upto = await self._undelivered.page_end(after, rows)
        if upto is not None:
            finished = await self._undelivered.finished(after, upto, since)
            await self._mailbox.remove([(user, [message]) for message, user in finished])
        return upto

    async def _redrive(self, row: Generation) -> None:
        """从 ``cursor`` 起逐页放回发件箱；入队是中继的事，它知道队列还有没有余地。

        每一页都记下走到哪里；超过时限的一页下一拍变小再来（``PageWalk``）。
        """
        now = self._clock()
        after = row.cursor or oldest_possible(now, HORIZON_MS)
        await self._broadcasts.reopen()
        while upto := await self._walk.page(partial(self._reopen_page, after, now)):
            if not await self._keep(upto):
                return
            after = upto
            await asyncio.sleep(PAGE_PAUSE_S)
        if not await self._broadcasts.restore_acks(partial(self._keep, after)):
            return
        await self._keep(None)
        logger.bind(generation=row.generation, messages=self._reopened).info("redrive_finished")

    async def _reopen_page(self, after: str, now: int, rows: int) -> str | None:
        upto = await self._undelivered.page_end(after, rows)
        if upto is not None and (reopened := await self._undelivered.reopen(after, upto, now)):
            self._reopened += reopened
            self._relay.hurry()
        return upto

    async def _keep(self, cursor: str | None) -> bool:
        until = self._clock() + self._rules.lease_ms
        return await self._generations.move_cursor(self._node.id, cursor, until)

    # ── 慢的检查 ─────────────────────────────────────────────────────────────

    async def _look_for_losses(self, row: Generation, mark: RedisMark | None) -> None:
        await self._look_after_restart(row, mark)
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_straggler:
            self._next_straggler = loop.time() + self._rules.straggler_interval_s
            await self.look_for_stragglers()

    async def _look_after_restart(self, row: Generation, mark: RedisMark | None) -> None:
        """重启过而记号没有落后：丢的可能还不到一个记号。最近入队的毫无痕迹，就是证据。"""
        now, settle_ms = self._clock(), int(self._rules.settle_s * 1000)
        # 入队时刻是稍后才记下的；队列空了，此前入队的才都该有痕迹
        if self._suspect is None or now < self._suspect[1] + settle_ms:
            return
        if await self._queue.streams.backlog():
            return
        suspect, self._suspect = self._suspect, None
        if await self._missing_since(suspect) or await self._broadcasts.lost(suspect[0]):
            await self._redrive(await self._begin(row, mark, "tail"))

    def _suspect_the_last(self, mark: RedisMark | None) -> None:
        """写下记号以前的都在；大家都停着的时候也许很久没有写。"""
        now, settle_ms = self._clock(), int(self._rules.settle_s * 1000)
        self._suspect = (min(now, mark.at if mark else now) - SNAPSHOT_MARGIN_MS, now + settle_ms)

    async def _missing_since(self, enqueued: tuple[int, int]) -> bool:
        """这段时间里接受并入队的，有毫无痕迹的。"""
        after = (oldest_possible(enqueued[0], 0), 0)
        newest = oldest_possible(self._clock() + HORIZON_MS, 0)
        while True:
            rows = await self._undelivered.waiting(
                after, newest, enqueued, self._clock(), STRAGGLER_ROWS
            )
            if await self._mailbox.missing(rows):
                return True
            if len(rows) < STRAGGLER_ROWS or not await self._keep(None):
                return False
            after = rows[-1]

    async def look_for_stragglers(self) -> int:
        """接着上次看早已入队、仍 pending 的；不在信箱里的（B8）放回发件箱，返回几条消息。

        一遍至多 ``STRAGGLER_BUDGET_S``，走到头再从头来。还在队列里排着的也会放回：队列去重，
        信箱幂等，无害。
        """
        loop = asyncio.get_running_loop()
        until, reopened = loop.time() + STRAGGLER_BUDGET_S, 0
        while True:
            missing = await self._walk.page(self._missing_page)
            reopened += await self._reopen_stragglers(sorted({i for i, _ in missing}))
            if self._straggler_at is None or loop.time() >= until:
                return reopened

    async def _reopen_stragglers(self, message_ids: Sequence[str]) -> int:
        if not message_ids:
            return 0
        reopened = await self._undelivered.reopen_messages(message_ids, self._clock())
        if reopened:  # 0：别的节点先放回了
            self._stragglers += reopened
            logger.bind(messages=reopened).warning("stragglers_reopened")
            self._relay.hurry()
        return reopened

    async def _missing_page(self, rows: int) -> list[Recipient]:
        """下一页消息里不在信箱的收件人；走到哪里记在 ``_straggler_at``。"""
        now = self._clock()
        after = self._straggler_at or (oldest_possible(now, HORIZON_MS), 0)
        end = await self._undelivered.page_end(after[0], rows)
        enqueued = (0, now - self._rules.straggler_after_ms)
        waiting = await self._undelivered.waiting(
            after, end or after[0], enqueued, now, STRAGGLER_ROWS
        )
        missing = await self._mailbox.lost(waiting)
        if len(waiting) == STRAGGLER_ROWS:
            self._straggler_at = waiting[-1]
        else:
            self._straggler_at = None if end is None else (end, _LAST_USER)
        return missing


def _lost(mark: RedisMark | None, row: Generation) -> str | None:
    """Redis 丢过数据的说法；没有则 None。"""
    if mark is None:
        return "empty"
    if mark.generation != row.generation:
        return "foreign"
    return "behind" if mark.mark < row.mark else None
