"""问产品自己：``GET /messages/{id}/delivery``，长连接，全部页合在一起。"""

from __future__ import annotations

import msgspec

from meeting_push.client.rest_call import DeliveryReport

from ..failure import BenchError
from ..post_connection import PostConnection
from ..target import Target
from .final_state import Report

_OK = 200


class DeliveryReader:
    """一次一个请求；断了下次重连。"""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection: PostConnection | None = None
        self._decoder = msgspec.json.Decoder(DeliveryReport)
        self._tokens: dict[int, str] = {}

    async def read(self, message_id: str, sender_id: int) -> Report:
        """:raises BenchError: 没有得到 200"""
        states: list[tuple[int, str, int | None]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self._page(message_id, sender_id, cursor)
            states += [(int(r.user_id), r.status.value, r.delivered_at) for r in page.recipients]
            cursor = page.next_cursor
        assert page.total is not None  # 只有广播数不出人数，这里不问广播
        assert page.pending is not None
        return Report(
            message_id=message_id,
            total=page.total,
            pending=page.pending,
            delivered=page.delivered,
            failed=page.failed,
            expired=page.expired,
            states=tuple(states),
        )

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _page(self, message_id: str, sender_id: int, cursor: str) -> DeliveryReport:
        if self._connection is None:
            self._connection = await PostConnection.open(self._target.host, self._target.port)
        try:
            # 方法由请求头决定：GET 只是没有正文的一次
            status, body = await self._connection.post(
                self._head(message_id, sender_id, cursor), b""
            )
        except BenchError:
            await self.close()
            raise
        if status != _OK:
            raise BenchError(f"the delivery of {message_id} was answered {status}")
        return self._decoder.decode(body)

    def _head(self, message_id: str, sender_id: int, cursor: str) -> bytes:
        target = self._target
        token = self._tokens.setdefault(sender_id, target.token(sender_id))
        query = f"?limit=200&cursor={cursor}" if cursor else "?limit=200"
        return (
            f"GET /api/v1/messages/{message_id}/delivery{query} HTTP/1.1\r\n"
            f"Host: {target.host}:{target.port}\r\nAuthorization: Bearer {token}\r\n"
        ).encode()
