"""各个角色之间共享的一点记忆：谁是谁、接受了什么、确认了什么还没看到结局。"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .schedule import PlannedDraft, Schedule

_RECENT: Final = 500


@dataclass(slots=True)
class Ledger:
    """``users``、``senders``：序号 → 真实的 id。"""

    schedule: Schedule
    senders: Sequence[int]
    users: Sequence[int]
    #: (message_id, 发送者的 id)，最近接受的。
    accepted: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    #: (message_id, 收件人的 id)，最近到达的；有人会拿去冒认。
    arrived: deque[tuple[str, frozenset[int]]] = field(
        default_factory=lambda: deque(maxlen=_RECENT)
    )
    #: 到达过的、故意不确认的消息。
    held: set[str] = field(default_factory=set)
    #: user_id → 他的设备确认过、旁观者还没有看到了结的（dict 当有序集合用）。
    unsettled: defaultdict[int, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))

    def arrive(self, message_id: str, title: str) -> None:
        """记住它是发给谁的；标题说的不是计划里的哪一条（本不该有），由检查者去说。"""
        post, _, index = title.partition(".")
        try:
            draft = self.schedule.posts[int(post)].drafts[int(index)]
        except (ValueError, IndexError):
            return
        self.arrived.append((message_id, frozenset(self.recipients(draft))))

    def recipients(self, draft: PlannedDraft) -> tuple[int, ...]:
        return tuple(self.users[number] for number in draft.recipients)

    def acked(self, user_id: int, message_ids: Sequence[str]) -> None:
        self.unsettled[user_id].update(dict.fromkeys(message_ids))

    def strangers_message(self, user_id: int) -> str | None:
        """最近到达的、不是发给 ``user_id`` 的一条。"""
        for message_id, recipients in reversed(self.arrived):
            if user_id not in recipients:
                return message_id
        return None
