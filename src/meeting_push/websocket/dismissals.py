"""别处说该走的：被踢掉的，座位让给了别人的。"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..node.control_channel import Kick
from ..protocol.codes import CloseCode
from .manager import ConnectionManager


class Dismissals:
    def __init__(self, manager: ConnectionManager) -> None:
        self._manager = manager
        self._also_replaced: list[Callable[[Collection[str]], None]] = []

    def kick(self, command: Kick) -> None:
        self._disconnect(command.user_id, (command.connection_id,), CloseCode.KICKED)

    def replace(self, user_id: int, connection_ids: Collection[str]) -> None:
        self._disconnect(user_id, connection_ids, CloseCode.REPLACED)
        for replaced in self._also_replaced:
            replaced(connection_ids)

    def also_replaced(self, replaced: Callable[[Collection[str]], None]) -> None:
        """座位也分给了别的连接（会议）：被顶掉的由 ``replaced`` 关闭。"""
        self._also_replaced.append(replaced)

    def _disconnect(self, user_id: int, connection_ids: Collection[str], code: CloseCode) -> None:
        for connection in self._manager.get_user_connections(user_id):
            if connection.connection_id in connection_ids:
                self._manager.disconnect_user(user_id, connection, code)
