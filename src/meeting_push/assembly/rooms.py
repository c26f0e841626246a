"""所有的房间，给看着它们的人：观察与路由。"""

from __future__ import annotations

from dataclasses import dataclass

from .access import Access
from .broadcast_path import BroadcastPath
from .bus import Bus
from .edge import Edge
from .meetings import Meetings
from .message_path import MessagePath
from .outcome_path import OutcomePath
from .record import Record
from .recovery import Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """次序即消息的次序。"""

    record: Record
    bus: Bus
    access: Access
    messages: MessagePath
    outcomes: OutcomePath
    broadcasts: BroadcastPath
    recovery: Recovery
    edge: Edge
    meetings: Meetings
