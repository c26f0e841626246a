"""安静的时段：夜里只有要紧的才叫醒人，别的攒到天亮一并说。"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from ..alerts.model import Severity

_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """每天当地时间 ``start`` 到 ``end``（可以跨过午夜）；``pierced_by`` 及更重的照样说。"""

    start: time
    end: time
    zone: ZoneInfo
    pierced_by: Severity

    def hold(self, severity: Severity, now_ms: int) -> bool:
        """此刻不说这么重的。"""
        if severity.rank >= self.pierced_by.rank:
            return False
        local = self._local(now_ms).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def left_s(self, now_ms: int) -> float:
        """离下一次 ``end`` 还有几秒；夏令时跳过的那一刻算作跳过之后。"""
        local = self._local(now_ms)
        day = local.date() + timedelta(days=local.time() >= self.end)
        end = datetime.combine(day, self.end, self.zone).astimezone(UTC)
        return max(0.0, (end - local.astimezone(UTC)).total_seconds())

    def _local(self, now_ms: int) -> datetime:
        return (datetime.fromtimestamp(0, UTC) + now_ms * _MS).astimezone(self.zone)
