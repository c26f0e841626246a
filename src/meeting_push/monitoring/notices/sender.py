"""发一份通知出去的那一方：每种渠道一个，都在 ``senders/``。"""

from __future__ import annotations

from typing import Final, Protocol

from ..alerts.model import Notice

#: 一次发送的上限，连着建立连接与等回答。
TIMEOUT_S: Final = 10.0


class Sender(Protocol):
    async def send(self, notice: Notice) -> tuple[str, ...]:
        """发一次；返回被拒绝的收件人（别人都收到了），通常为空。可以取消。

        取消或超时的，对方可能已经收到。

        :raises ChannelFailedError: 没有人收到；话里没有密钥
        """
        ...
