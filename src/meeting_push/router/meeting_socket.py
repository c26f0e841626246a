"""``/ws/meeting/{meeting_id}`` 的端点：升级之前的检查，然后交给 ``MeetingHub``。"""

from __future__ import annotations

import re
from typing import Final

from starlette.websockets import WebSocket

from ..http.refusals import FOREIGN_ORIGIN, NOT_FOUND
from ..meeting.hub import MeetingHub
from ..websocket.asgi import Endpoint, refuse, serve, take_handshake
from ..websocket.handshake import Handshake

MEETING_ID_PATTERN: Final = "[0-9A-Z]{26}"
_MEETING_ID: Final = re.compile(MEETING_ID_PATTERN)
_SEQ: Final = re.compile(r"[0-9]{1,16}")


def meeting_endpoint(hub: MeetingHub) -> Endpoint:
    """畸形的 id 与不许的 Origin 在升级之前拒绝（404、403）；其余都升级后以关闭码说明。

    没有的会议与不该进的会议都是 4501：升级之前还不知道他是谁，不为陌生人查数据库，
    也不告诉他会议是否存在。
    """
    largest = hub.limits.line.largest_read_bytes

    async def endpoint(websocket: WebSocket, meeting_id: str) -> None:
        handshake = take_handshake(websocket, 0, hub.proxies)
        if _MEETING_ID.fullmatch(meeting_id) is None:
            await hub.keep_waiting(handshake)
            await refuse(websocket, NOT_FOUND)
        elif not hub.origin_allowed(handshake):
            await hub.keep_waiting(handshake)
            await refuse(websocket, FOREIGN_ORIGIN)
        else:
            await websocket.accept(handshake.accepted_subprotocol)
            last_seq = _last_seq(handshake)
            await serve(
                websocket,
                lambda driver: hub.accept(handshake, meeting_id, last_seq, driver),
                largest,
            )

    return endpoint


def _last_seq(handshake: Handshake) -> int:
    """没给或畸形的当作 0：大不了从头推一遍。"""
    given = next((value for name, value in handshake.fields() if name == "last_seq"), "")
    return int(given) if _SEQ.fullmatch(given) else 0
