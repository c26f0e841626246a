"""交到应用手里的消息。"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..protocol.frames import NewMessageTail
from .wire import NewMessage


class ReceivedMessage(NewMessageTail, frozen=True, kw_only=True, eq=False):
    """contract 里 ``new_message`` 的全部字段，不可变。

    ``attempt`` 大于 0 表示服务器重推；广播没有 ``seq``，有 ``broadcast_id``；两者都是 None 的
    是瞬时消息。
    ``epoch`` 是收到时的代，与 ``seq`` 一起才有意义。
    """

    seq: int | None
    broadcast_id: int | None
    attempt: int
    epoch: str | None
    settle: Callable[[ReceivedMessage], None]

    def ack(self) -> None:
        """现在就算已应用，不等处理函数返回；重复调用无害。确认在几毫秒内成批送出。"""
        self.settle(self)

    def to_json(self) -> str:
        """一行 JSON，字段同 contract 的 ``new_message``；``broadcast_id`` 只有广播才有。"""
        fields = {name: getattr(self, name) for name in NewMessage.__struct_fields__}
        if self.broadcast_id is None:
            del fields["broadcast_id"]
        return msgspec.json.encode(fields).decode()

    def __repr__(self) -> str:
        # 不含标题与正文：repr 常常进日志。
        return f"ReceivedMessage({self.message_id}, seq={self.seq}, attempt={self.attempt})"


def received(
    frame: NewMessage, epoch: str | None, settle: Callable[[ReceivedMessage], None]
) -> ReceivedMessage:
    return ReceivedMessage(
        message_id=frame.message_id,
        message_type=frame.message_type,
        priority=frame.priority,
        title=frame.title,
        content=frame.content,
        sender=frame.sender,
        timestamp=frame.timestamp,
        expires_at=frame.expires_at,
        data=frame.data,
        seq=frame.seq,
        broadcast_id=frame.broadcast_id,
        attempt=frame.attempt,
        epoch=epoch,
        settle=settle,
    )
