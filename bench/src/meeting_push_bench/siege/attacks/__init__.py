"""一种坏法一个函数：一直做，直到被取消。

名字是 docs/findings.md 里的编号；还没有找出毛病的门，就是门的名字。
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ..assault import Assault
from . import accounts, bodies, doors, floods, heads, ids, operations, strangers, streams

ATTACKS: Final[dict[str, Callable[[Assault], Awaitable[None]]]] = {
    "A1": bodies.validation_bomb,
    "A2": heads.endless_trailers,
    "A3": bodies.nested_data,
    "A4": floods.strangers_mailbox,
    "A5": floods.send_flood,
    "A6": heads.oversized_upgrades,
    "A7": floods.unread_answers,
    "A8": accounts.register_flood,
    "A9": floods.large_bodies,
    "A10": doors.watch_everybody,
    "A11": doors.crowd_the_meeting,
    "A12": accounts.guess_over_ipv6,
    "A13": accounts.forged_names,
    "A14": accounts.log_flood,
    "A16": bodies.unauthenticated_bodies,
    "ALERTS": operations.alert_floods,
    "OPS": operations.forgotten_tabs,
    "PAGES": operations.page_floods,
    "LOOKUPS": operations.lookups_of_nothing,
    "KEYS": strangers.made_up_keys,
    "CORS": strangers.preflights,
    "CONNECTS": doors.come_and_go,
    "WEBHOOKS": floods.events_for_nobody,
    "SSE": streams.event_streams,
    "ACKS": streams.ack_floods,
    "IDS": ids.never_seen,
}
