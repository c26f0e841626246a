"""谁可以发什么：REST 上的人与管理员；应用自己在进程里发的不问。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ..errors import ForbiddenError
from ..model import AppData, Draft, Principal

#: 我们自己的通知在 ``data.event`` 里说的；别人发的不许是它的样子（A17）。
MEETING_ENDED: Final = "meeting_ended"
_OURS: Final = frozenset({MEETING_ENDED})


class _Event(msgspec.Struct):
    event: Any = None


_event: Final = msgspec.json.Decoder(_Event)


def check_send_rights(sender: Principal, drafts: Sequence[Draft]) -> None:
    """:raises ForbiddenError: 普通用户发 ``system``，或冒充我们自己的通知"""
    if sender.is_admin:
        return
    if any(draft.message_type == "system" for draft in drafts):
        raise ForbiddenError("message_type system: administrators only")
    if any(draft.data is not None and _event_of(draft.data) in _OURS for draft in drafts):
        raise ForbiddenError("data.event: this event is the system's own")


def _event_of(data: AppData) -> str | None:
    """畸形的由 ``DraftRules`` 说。"""
    if isinstance(data, msgspec.Raw):
        try:
            found = _event.decode(data).event
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
    else:
        found = data.get("event")
    return found if isinstance(found, str) else None
