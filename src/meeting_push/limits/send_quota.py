"""谁的令牌发了多少，记在谁账上：每个进程各记，从不问 Redis。管理员与应用自己不记。"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..clock import Clock, now_ms
from ..errors import SendLimitError, TooExpensiveError
from ..model import Draft, Principal
from .send_limits import Cost, Priced, SendLimits, cost_of, least_cost_of

#: 把检查过的草稿记在账上；不够则抛出 ``SendLimitError``、``TooExpensiveError``。
Charge = Callable[[Sequence[Draft]], None]


class SendQuota:
    def __init__(self, per_s: float, burst: float, *, clock: Clock = now_ms) -> None:
        self._limits = SendLimits(per_s, burst)
        self._clock = clock
        #: 拒绝了几次请求。
        self.refused = 0

    def charge(self, user: Principal) -> Charge | None:
        """他的账；不记账的人没有。"""
        if user.is_admin or self._limits.unlimited:
            return None
        return lambda drafts: self._take(user, cost_of(drafts))

    def glance(self, user: Principal, drafts: Iterable[Priced]) -> None:
        """还没有逐条检查就知道的最低价。付不起的不必再看：检查几万个收件人也花工夫（A5）。"""
        if not (user.is_admin or self._limits.unlimited):
            cost = least_cost_of(drafts)
            self._counted(lambda: self._limits.look(user.user_id, cost, self._clock()))

    def charge_recipients(self, user: Principal, user_ids: Iterable[int]) -> None:
        """他让这些人各得一条通知。"""
        if not (user.is_admin or self._limits.unlimited):
            self._take(user, Cost(len(set(user_ids)), 0))

    def _take(self, user: Principal, cost: Cost) -> None:
        self._counted(lambda: self._limits.take(user.user_id, cost, self._clock()))

    def _counted(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except (SendLimitError, TooExpensiveError):
            self.refused += 1
            raise
