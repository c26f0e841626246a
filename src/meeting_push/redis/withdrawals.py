"""撤回的 Redis 操作：信箱里的换成墓碑，状态记下。错误同 ``LeanConnection.execute``。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .keys import Keys
from .lean import LeanConnection, Script
from .mailboxes import CALL_RECIPIENTS, Mailboxes

_withdraw: Final = Script("withdraw")
_status: Final = Script("withdraw_status")


def mark_of(message_id: str) -> str:
    """日志里原来那个 seq 的占位；不会是一条消息的 id。"""
    return "~" + message_id[1:]


class Withdrawals:
    def __init__(self, lean: LeanConnection, keys: Keys, boxes: Mailboxes) -> None:
        self._lean = lean
        self._keys = keys
        self._boxes = boxes

    async def withdraw(self, message_id: str, tail: bytes, user_ids: Sequence[int]) -> list[int]:
        """各人得到一帧 ``withdrawn``，有自己的 seq；返回信箱溢出了的。幂等；整批不原子。"""
        head = [*self._boxes.head(publish=True), message_id, mark_of(message_id), tail]
        overfull: list[int] = []
        for start in range(0, len(user_ids), CALL_RECIPIENTS):
            some = [(user_id,) for user_id in user_ids[start : start + CALL_RECIPIENTS]]
            for _, full in await _withdraw.by_slot(self._lean, head, some, self._touched):
                overfull += map(int, full)
        return overfull

    def _touched(self, row: tuple[int]) -> list[str]:
        """``withdraw.lua`` 为一个人碰的。"""
        keys, [user_id] = self._keys, row
        return [
            *(keys.mailbox(user_id), keys.message_log(user_id), keys.user_seq(user_id)),
            *(keys.expired_messages(user_id), keys.evicted_messages(user_id)),
        ]

    async def record(self, message_id: str, user_ids: Sequence[int], now: int) -> None:
        """没有确认过的这些人的状态从此是 withdrawn。"""
        key = self._keys.delivery_status(message_id)
        for start in range(0, len(user_ids), CALL_RECIPIENTS):
            some = user_ids[start : start + CALL_RECIPIENTS]
            await _status.run(self._lean, [key], [now, *some])
