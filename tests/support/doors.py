"""门厅：不提的都没有限度。"""

from __future__ import annotations

from meeting_push.http.cors import Cors
from meeting_push.http.doorway import DoorLimits, Doorway
from meeting_push.limits.rate import RefusalPace, TrustedProxies


def door(
    limits: DoorLimits | None = None,
    proxies: TrustedProxies | None = None,
    pace: RefusalPace | None = None,
    cors: Cors | None = None,
) -> Doorway:
    return Doorway(limits or DoorLimits(), proxies or TrustedProxies(), pace or RefusalPace(), cors)
