"""要做多少；写进报告。"""

from __future__ import annotations

from typing import Final

import msgspec


class RetriesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """``scheduled``：没有到期的，均匀地在 ``spread_s`` 里。

    ``messages`` × ``recipients`` 个等不到确认的收件人，每轮都认领一次、移出一次；最后一起过期。
    """

    scheduled: int = 1_000_000
    spread_s: int = 900
    messages: int = 200
    recipients: int = 500
    idle_looks: int = 1_000
    schedule_batch: int = 500

    @property
    def claims(self) -> int:
        return self.messages * self.recipients


QUICK_RETRIES: Final = RetriesPlan(scheduled=2_000, messages=4, recipients=50, idle_looks=20)
