"""关注的份额：一个节点上能被关注的人有限，每个用户、每个地址只占得了其中的一份（A10）。"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from ..contracts import Watcher
from ..errors import UnavailableError, WatchLimitError
from ..limits.rate import rate_key
from ..settings import PresenceSettings

#: 一个地址（后面可能是整个公司，也可能是一个人的许多账号）至多占节点的几分之一。
_ADDRESS_SHARE: Final = 4


class Holder(NamedTuple):
    """被关注的人算在谁的头上：先关注他的；他走了就算在下一个头上。"""

    user_id: int
    address: str

    @classmethod
    def of(cls, watcher: Watcher) -> Holder:
        return cls(watcher.user_id, rate_key(watcher.ip_address))


class WatchShares:
    """只数不同的人：一百台设备关注同一个人只算一个。"""

    def __init__(self, settings: PresenceSettings) -> None:
        self._most = settings.max_watched_users
        self._most_per_user = settings.max_watched_per_user
        self._most_per_address = max(1, self._most // _ADDRESS_SHARE)
        self._total = 0
        self._by_user: Counter[int] = Counter()
        self._by_address: Counter[str] = Counter()

    def check(self, watcher: Watcher, fresh: int) -> None:
        """他再要 ``fresh`` 个没有人关注的。

        :raises WatchLimitError: 超出他自己的份额
        :raises UnavailableError: 节点满了，或他的地址满了
        """
        if not fresh:
            return
        holder = Holder.of(watcher)
        if self._by_user[holder.user_id] + fresh > self._most_per_user:
            raise WatchLimitError(f"one user watches at most {self._most_per_user} others here")
        if self._by_address[holder.address] + fresh > self._most_per_address:
            raise UnavailableError("too many users are watched from this address")
        if self._total + fresh > self._most:
            raise UnavailableError("too many users are watched on this node")

    def take(self, watcher: Watcher) -> Holder:
        holder = Holder.of(watcher)
        self._count(holder, 1)
        return holder

    def give_back(self, holder: Holder) -> None:
        self._count(holder, -1)

    def _count(self, holder: Holder, change: int) -> None:
        self._total += change
        self._by_user[holder.user_id] += change
        self._by_address[holder.address] += change
        if not self._by_user[holder.user_id]:
            del self._by_user[holder.user_id]
        if not self._by_address[holder.address]:
            del self._by_address[holder.address]
