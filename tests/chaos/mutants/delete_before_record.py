"""打破 DLV-1 的服务器：先移出信箱，后记录。死在两者之间的确认，消息就从此不见了。

用法同 ``python -m meeting_push``。
"""

from __future__ import annotations

import asyncio

from meeting_push.cli import main
from meeting_push.services.delivery_confirmation_service import (
    BATCH_ROWS,
    DeliveryConfirmationService,
    _by_user,
)

#: 数据库慢的时候两步之间就有这么久：窗口宽，一分钟里的几次 kill -9 总有一次落进去。
SLOW_DISK_S = 0.3


async def flush_batch(self: DeliveryConfirmationService) -> None:
    batch = self._rows[:BATCH_ROWS]
    await self._mailbox.remove(_by_user(batch))
    await asyncio.sleep(SLOW_DISK_S)
    await self._recipients.record_delivered(batch)
    del self._rows[: len(batch)]


if __name__ == "__main__":
    DeliveryConfirmationService._flush_batch = flush_batch  # type: ignore[method-assign]
    main()
