"""打破 DLV-1 的服务器：有人在听就只推送，不进信箱。推送途中断开的，消息就从此不见了。

用法同 ``python -m meeting_push``。
"""

from __future__ import annotations

from collections.abc import Sequence

from meeting_push.cli import main
from meeting_push.mailbox_model import Delivery
from meeting_push.redis.link import Command
from meeting_push.redis.mailboxes import DeliveredBatch, Mailboxes

deliver_and_keep = Mailboxes.deliver


async def deliver(
    self: Mailboxes,
    deliveries: Sequence[Delivery],
    *,
    publish: bool,
    ahead: Sequence[Command] = (),
) -> DeliveredBatch:
    done = await deliver_and_keep(self, deliveries, publish=publish, ahead=ahead)
    await self.remove(
        [
            (one.user_id, [delivery.message_id])
            for delivery, row in zip(deliveries, done.rows, strict=True)
            for one in row
            if one.receivers
        ]
    )
    return done


if __name__ == "__main__":
    Mailboxes.deliver = deliver  # type: ignore[method-assign]
    main()
