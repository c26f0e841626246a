"""谁的令牌发了多少，记在谁账上：每个进程各记，从不问 Redis。管理员与应用自己不记。"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..clock import Clock, now_ms
from ..errors import SendLimitError, TooExpensiveError
from ..model import Draft, Principal
from ..protocol.send_limits import Cost, SendLimits, cost_of

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

    def glance(self, user: Principal, messages: int) -> None:
        """还没有逐条检查就知道的：一条至少一份。付不起的不必再看。"""
        if not (user.is_admin or self._limits.unlimited):
            try:
                self._limits.look(user.user_id, messages, self._clock())
            except SendLimitError:
                self.refused += 1
                raise

    def charge_recipients(self, user: Principal, user_ids: Iterable[int]) -> None:
        """他让这些人各得一条通知。"""
        if not (user.is_admin or self._limits.unlimited):
            self._take(user, Cost(len(set(user_ids)), 0))

    def _take(self, user: Principal, cost: Cost) -> None:
        try:
            self._limits.take(user.user_id, cost, self._clock())
        except (SendLimitError, TooExpensiveError):
            self.refused += 1
            raise
