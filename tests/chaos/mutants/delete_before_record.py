"""打破 DLV-1 的服务器：先移出信箱，后记录。死在两者之间的确认，消息就从此不见了。

用法同 ``python -m meeting_push``。
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from meeting_push.cli import main
from meeting_push.outcome.delivery_confirmation_service import (
    DeliveryConfirmationService,
    _by_user,
)
from meeting_push.storage.recipients import DeliveredRow

#: 数据库慢的时候两步之间就有这么久：窗口宽，一分钟里的几次 kill -9 总有一次落进去。
SLOW_DISK_S = 0.3


async def write(self: DeliveryConfirmationService, batch: Sequence[DeliveredRow]) -> None:
    await self._mailbox.remove(_by_user(batch))
    await asyncio.sleep(SLOW_DISK_S)
    await self._recipients.record_delivered(batch)


if __name__ == "__main__":
    DeliveryConfirmationService._write = write  # type: ignore[method-assign]
    main()
