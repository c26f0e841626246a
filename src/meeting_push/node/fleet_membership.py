"""合群：后来的节点与先来的、与时间对得上，才就绪；已就绪的不因后来的而不就绪（E6）。

每个节点每秒在 SQL 里写自己的一行、读别人的：谁在服务，用哪把钥匙签发，听不听得见 Redis。
经 SQL 而不经 Redis：要分清的正是“只有我够不到 Redis”与“谁都够不到”（E2）。

只有我够不到：别的网关好好的，就把客户端交出去，不让他们陪着等。谁都够不到时相反：套接字留着
（CON-4），赶走他们也没有地方可去。SQL 也够不到就只看时间：这样的节点多半是自己的网断了。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from ..clock import Clock, now_ms
from ..errors import UnavailableError
from ..histogram import Histogram
from ..logs import RepeatedWarning, logger
from ..model import Keyring
from ..node_identity import NodeIdentity
from ..storage.fleet import NodeRepository, NodeRow, Roster
from ..supervision import periodically

#: 钟差到这么多就不合群：令牌、有效期、租约都靠它。
MAX_SKEW_MS: Final = 30_000
#: 这么久没读到名册，就不再知道别人怎样。
STALE_S: Final = 5.0


class FleetMembership:
    """``hears``：此刻写得进、听得见 Redis；``redis_skew_ms``：Redis 的钟差，不知道则 None。"""

    def __init__(
        self,
        node: NodeIdentity,
        nodes: NodeRepository,
        keyring: Keyring,
        *,
        role: str,
        version: str,
        hears: Callable[[], bool],
        redis_skew_ms: Callable[[], int | None],
        clock: Clock = now_ms,
    ) -> None:
        self._node = node
        self._nodes = nodes
        self._keyring = keyring
        self._role = role
        self._version = version
        self._hears = hears
        self._redis_skew_ms = redis_skew_ms
        self._clock = clock
        self._started_at = clock()
        self._seen = asyncio.Event()
        self._read_at = float("-inf")
        self._others: tuple[NodeRow, ...] = ()
        self._problem: UnavailableError | None = None
        self._disagrees = RepeatedWarning("node_disagrees")
        #: 写自己的一行、读别人的，来回多久；``last_s`` 是最近一次，没有成的不算。
        self.round_trip = Histogram()
        self.last_s = 0.0
        #: 与先来的相合过；此后不再因为后来的而不就绪。
        self.joined = False

    async def beat(self) -> None:
        """写自己的一行，读别人的；也就是“SQL 收得下写入”的检查。

        :raises DatabaseUnavailableError: 收不下；``cause`` 说为什么
        """
        me = NodeRow(
            node_id=self._node.id,
            role=self._role,
            version=self._version,
            hears=self._hears(),
            joined=self.joined,
            signs=self._keyring.signs,
            started_at=self._started_at,
        )
        asked_at = self._clock()
        began = time.perf_counter()
        roster = await self._nodes.beat(me)
        self.last_s = time.perf_counter() - began
        self.round_trip.record(self.last_s)
        self._read_at = asyncio.get_running_loop().time()
        self._others = roster.others
        self._judge(roster, (asked_at + self._clock()) // 2)

    async def check(self) -> None:
        """:raises UnavailableError: 与先来的、与钟对不上；``cause`` 是 ``keys`` 或 ``clock``"""
        await self._seen.wait()
        if self._problem is not None and not self.joined:
            raise self._problem

    async def check_others(self) -> None:
        """就绪之后才对不上的：只说，不因此不就绪。

        :raises UnavailableError: 同 ``check``
        """
        if self._problem is not None:
            raise self._problem

    @property
    def mixed(self) -> bool:
        """有别的版本的节点在服务：正在滚动升级。"""
        return any(one.version != self._version for one in self._others)

    def well_elsewhere(self) -> bool | None:
        """有没有别的、有连接的节点听得见 Redis；不知道（SQL 也够不到）则 None。"""
        if asyncio.get_running_loop().time() - self._read_at > STALE_S:
            return None
        return any(one.hears and one.role in ("all", "gateway") for one in self._others)

    async def withdraw(self) -> None:
        """从容离开：别人不再把我算在内。"""
        await self._nodes.withdraw(self._node.id)

    # ── 对得上吗 ─────────────────────────────────────────────────────────────

    def _judge(self, roster: Roster, now: int) -> None:
        self._problem = self._clock_problem(roster.now - now) or self._keys_problem(roster)
        if self._problem is not None:
            self._disagrees.say(cause=self._problem.cause, reason=self._problem.message)
        elif not self.joined:
            self.joined = True
            logger.bind(others=len(roster.others)).info("fleet_joined")
        self._seen.set()

    def _clock_problem(self, sql_skew_ms: int) -> UnavailableError | None:
        known = [] if self._nodes.shares_our_clock else [sql_skew_ms]
        if (redis_skew_ms := self._redis_skew_ms()) is not None:
            known.append(redis_skew_ms)
        if not known or min(map(abs, known)) <= MAX_SKEW_MS:
            return None  # 与其中一个对得上：错的是另一个，不是我们
        off_s = min(known, key=abs) // 1000
        return UnavailableError(f"this node's clock is {-off_s} s ahead", cause="clock")

    def _keys_problem(self, roster: Roster) -> UnavailableError | None:
        if not self._keyring.accepts:
            return None
        for other in roster.others:
            if other.signs and other.signs not in self._keyring.accepts and self._was_first(other):
                return UnavailableError(
                    f"the keys of this node do not accept what node {other.node_id} signs",
                    cause="keys",
                )
        return None

    def _was_first(self, other: NodeRow) -> bool:
        """谁都还没合群时，先启动的算数。"""
        mine = (self._started_at, self._node.id)
        return other.joined or (not self.joined and (other.started_at, other.node_id) < mine)


LOOK_EVERY_S: Final = 0.5
#: 别人要连着好这么久才算好：Redis 刚回来时总有先连上的，差几秒的不算被切断。
WELL_FOR_S: Final = 4.0
#: SQL 也够不到时等这么久。
BLIND_S: Final = 60.0


class CutOff:
    """``hears``：此刻写得进、听得见 Redis。``well_elsewhere``：别的网关好不好，不知道则 None。

    ``give_up``、``recover`` 是同步的，不得抛出。``run`` 须由监督者一直运行。
    """

    def __init__(
        self,
        *,
        hears: Callable[[], bool],
        well_elsewhere: Callable[[], bool | None],
        after_s: float,
        give_up: Callable[[], None],
        recover: Callable[[], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._hears = hears
        self._well_elsewhere = well_elsewhere
        self._after_s = after_s
        self._give_up = give_up
        self._recover = recover
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._deaf_since: float | None = None
        self._well_since: float | None = None
        self._given_up = False

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self.look, partial(asyncio.sleep, LOOK_EVERY_S))

    async def check(self) -> None:
        """健康检查。

        :raises UnavailableError: 客户端已交了出去，还没有重新接待
        """
        if self._given_up:
            raise UnavailableError("the clients were handed over", cause="cut_off")

    def look(self) -> None:
        now = self._clock()
        if self._hears():
            self._deaf_since = self._well_since = None
            if self._given_up:
                self._given_up = False
                logger.info("node_back_in_touch")
                self._recover()
            return
        self._deaf_since = self._deaf_since or now
        well = self._well_elsewhere()
        self._well_since = (self._well_since or now) if well else None
        if not self._given_up and self._is_alone(now, self._deaf_since, well):
            self._given_up = True
            logger.bind(deaf_s=round(now - self._deaf_since, 1), blind=well is None).error(
                "node_cut_off"
            )
            self._give_up()

    def _is_alone(self, now: float, deaf_since: float, well: bool | None) -> bool:
        if well is None:
            return now - deaf_since >= max(self._after_s, BLIND_S)
        settled = self._well_since is not None and now - self._well_since >= WELL_FOR_S
        return settled and now - deaf_since >= self._after_s
