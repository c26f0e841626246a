"""本节点的连接表：按用户，也按频道（热路径只查一次字典）。"""

from __future__ import annotations

from collections.abc import Iterator

from ..redis.keys import Keys
from .connection import UserConnection


class Registry:
    """列表写时复制：分发正在遍历旧列表时，连接可以放心离开。"""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.by_user: dict[int, list[UserConnection]] = {}
        self.by_channel: dict[bytes, list[UserConnection]] = {}

    def add(self, connection: UserConnection) -> None:
        user_id = connection.user_id
        self._put(user_id, [*self.by_user.get(user_id, ()), connection])

    def remove(self, connection: UserConnection) -> bool:
        """不在表里则 False。"""
        before = self.by_user.get(connection.user_id, [])
        after = [each for each in before if each is not connection]
        if len(after) == len(before):
            return False
        self._put(connection.user_id, after)
        return True

    def _put(self, user_id: int, connections: list[UserConnection]) -> None:
        channel = self._keys.user_channel(user_id).encode()
        if connections:
            self.by_user[user_id] = self.by_channel[channel] = connections
        else:
            del self.by_user[user_id], self.by_channel[channel]

    def __iter__(self) -> Iterator[UserConnection]:
        """此刻全部连接的快照。"""
        for connections in list(self.by_user.values()):
            yield from connections

    def __len__(self) -> int:
        return sum(map(len, self.by_user.values()))
