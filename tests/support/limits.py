"""两种连接的限度，由设置算出，不经一个应用。"""

from __future__ import annotations

from meeting_push.meeting.hub import limits_of_meetings
from meeting_push.meeting.session import MeetingLimits
from meeting_push.protocol.limits import Limits
from meeting_push.settings import Settings
from meeting_push.websocket.admission import limits_of


def limits_with(**given: object) -> Limits:
    """``given``：平的名字；不读 ``.env``。"""
    made = Settings(_env_file=None, **given)
    return limits_of(made.edge, made.admission, made.delivery, made.redis)


def meeting_limits_with(**given: object) -> MeetingLimits:
    return limits_of_meetings(Settings(_env_file=None, **given).meeting, limits_with(**given))
