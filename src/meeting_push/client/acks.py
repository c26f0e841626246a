"""等着送出、等着服务器认下的确认。纯数据，没有 I/O。"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from ..protocol.frames import MAX_ACK_IDS

#: 服务器一直不回答时，最多记住多少批已送出的。
_MAX_BATCHES_IN_FLIGHT: Final = 256


class AckQueue:
    """确认要等到 ``ack_result`` 才算数：断线时在途的，下一条连接上重送。

    续传从下限之后开始，下限以下的不会再推来；若不重送，丢掉的确认永远补不上。
    """

    def __init__(self, unconfirmed: Iterable[str] = ()) -> None:
        self._waiting: dict[str, None] = dict.fromkeys(unconfirmed)
        self._in_flight: dict[int, list[str]] = {}
        self._next_request_id = 1

    def add(self, message_id: str) -> None:
        self._waiting[message_id] = None

    def take(self, limit: int = MAX_ACK_IDS) -> tuple[int, list[str]] | None:
        """取出一批去送：(request_id, 至多 ``limit`` 个 id)；没有则 None。"""
        if not self._waiting:
            return None
        ids = list(islice(self._waiting, limit))
        for message_id in ids:
            del self._waiting[message_id]
        request_id, self._next_request_id = self._next_request_id, self._next_request_id + 1
        self._in_flight[request_id] = ids
        if len(self._in_flight) > _MAX_BATCHES_IN_FLIGHT:
            del self._in_flight[next(iter(self._in_flight))]
        return request_id, ids

    def confirmed(self, request_id: str | int | None) -> None:
        """服务器回答了这一批（认下或永久拒绝）；不认识的 id 无害。"""
        if isinstance(request_id, int):
            self._in_flight.pop(request_id, None)

    def reopen(self) -> None:
        """新连接：没得到回答的排回最前面。"""
        self._waiting = dict.fromkeys(self.unconfirmed())
        self._in_flight.clear()

    def unconfirmed(self) -> list[str]:
        """全部尚未被认下的 id，先送者在前。"""
        sent = [message_id for ids in self._in_flight.values() for message_id in ids]
        return [*sent, *self._waiting]
