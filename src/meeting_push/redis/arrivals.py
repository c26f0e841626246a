"""一条新连接要的一切，一次往返：座位、信箱、广播的游标；都在用户自己的槽里，一段 Lua。

同一圈事件循环里来的几条，一次写出；各得各的回答，一个人的键坏了不连累别人。
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..model import ResumePoint
from .broadcast_log import BroadcastLog
from .lean import LeanConnection, Script
from .link import Argument
from .mailboxes import Mailboxes, OpenedMailbox, opened
from .presence import SeatStore

_arrive: Final = Script("seat_claim", "open", "arrive")


class Newcomer(NamedTuple):
    """一条刚认证过的连接；``device_id`` 是它的座位记着的。"""

    user_id: int
    connection_id: str
    device_id: str
    resume: ResumePoint | None


class Arrived(NamedTuple):
    """``seat`` 是座位的值；``cursor`` 交给 ``BroadcastLog.position``。"""

    seat: bytes
    mailbox: OpenedMailbox
    cursor: tuple[list[bytes], int]


class Arrivals:
    """错误同 ``LeanConnection.execute``；同一条连接再来一次无害。"""

    def __init__(
        self, lean: LeanConnection, seats: SeatStore, mailboxes: Mailboxes, log: BroadcastLog
    ) -> None:
        self._lean = lean
        self._seats = seats
        self._mailboxes = mailboxes
        self._log = log

    async def open(self, who: Newcomer, newest: int) -> Arrived | None:
        """座位满了则 None；常态一次往返，满了再加两次。``newest``：新人的广播从它之后算起。"""
        seat = self._seats.question(*who[:3])
        answer = await self._ask(who, newest, [*seat, 0])
        if answer[0][0] < 0:
            dead = await self._seats.dead(answer[0][1:])
            answer = await self._ask(who, newest, [*seat, 1, *dead])
        if len(answer) == 1:
            return None
        verdict, mailbox, cursor, begun = answer
        return Arrived(verdict[1], opened(mailbox), (cursor, begun))

    async def _ask(self, who: Newcomer, newest: int, seat: list[Argument]) -> list[Any]:
        keys, args = self._mailboxes.question(who.user_id, who.resume)
        cursor, ttl_ms, start = self._log.question(who.user_id, newest)
        names = [*keys, self._seats.key(who.user_id), cursor]
        answer: list[Any] = await _arrive.run(self._lean, names, [*args, ttl_ms, start, *seat])
        return answer
