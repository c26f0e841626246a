"""回执：把一个收件人的结局告诉要求回执的发送者。瞬时的：状态已记录，丢了还可以查询。"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..contracts import UserChannel
from ..errors import MeetingPushError
from ..logs import RepeatedWarning
from ..model import DeliveryStatus
from ..protocol import frames


class Receipt(NamedTuple):
    """``to`` 是发送者；``at`` 是结局的时刻。"""

    message_id: str
    to: int
    user_id: int
    at: int


class Receipts:
    """必须在结局记进 SQL 之后才发。"""

    def __init__(self, channel: UserChannel) -> None:
        self._channel = channel
        self._lost = RepeatedWarning("receipt_lost")

    async def send(self, receipts: Iterable[Receipt], status: DeliveryStatus) -> None:
        for receipt in receipts:
            frame = frames.Receipt(
                message_id=receipt.message_id,
                recipient_id=receipt.user_id,
                status=status,
                timestamp=receipt.at,
            )
            try:
                await self._channel.publish_frame(receipt.to, frames.encode(frame))
            except MeetingPushError as error:
                self._lost.say(code=error.code, cause=error.cause)
