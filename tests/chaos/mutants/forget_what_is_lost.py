"""打破 DLV-1 的服务器：换上来的主缺了什么，没有人去看，也就没有人从 SQL 再来。

用法同 ``python -m meeting_push``。
"""

from __future__ import annotations

from meeting_push.cli import main
from meeting_push.recovery.reconciler import Reconciler


async def tick(self: Reconciler) -> None:
    """从不对账。"""


if __name__ == "__main__":
    Reconciler.tick = tick  # type: ignore[method-assign]
    main()
