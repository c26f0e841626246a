"""一条新连接要的一切，一次往返：座位、信箱、广播的游标；都在用户自己的槽里，一段 Lua。

同一圈事件循环里来的几条，一次写出；各得各的回答，一个人的键坏了不连累别人。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from ..clock import Clock, now_ms
from ..contracts import Newcomer, Quiet, Unfinished
from ..mailbox_model import OpenedMailbox
from .broadcast_log import BroadcastLog
from .keys import Keys
from .lean import LeanConnection, Script
from .link import Argument
from .mailboxes import Mailboxes, opened
from .presence import SeatStore

_arrive: Final = Script("seat_claim", "open", "arrive")
#: ``arrive.lua`` 的回答里这么多项的：没有什么在等他。
_QUIET: Final = 6

Done = Callable[[Quiet | Unfinished], None]


class Arrived(NamedTuple):
    """``seat`` 是座位的值；``cursor`` 交给 ``BroadcastLog.position``。"""

    seat: bytes
    mailbox: OpenedMailbox
    cursor: tuple[list[bytes], int]


class Arrivals:
    """错误同 ``LeanConnection.execute``；同一条连接再来一次无害。"""

    def __init__(
        self,
        lean: LeanConnection,
        keys: Keys,
        seats: SeatStore,
        mailboxes: Mailboxes,
        log: BroadcastLog,
        clock: Clock = now_ms,
    ) -> None:
        self._lean = lean
        self._keys = keys
        self._seats = seats
        self._mailboxes = mailboxes
        self._log = log
        self._clock = clock

    def begin(self, who: Newcomer, newest: int, done: Done) -> None:
        """见 ``contracts.Arrivals``。"""
        command = _arrive.call(*self._question(who, newest, 0))
        self._lean.execute(*command).add_done_callback(partial(self._answered, newest, done))

    def _answered(self, newest: int, done: Done, asked: asyncio.Future[Any]) -> None:
        answer = None if asked.cancelled() or asked.exception() is not None else asked.result()
        if answer is None or len(answer) != _QUIET:
            done(Unfinished(answer))
            return
        _, seat, epoch, seq, resumed, begun = answer
        quiet = Quiet(seat, epoch.decode(), seq, bool(resumed), newest)
        if begun:  # 新来的人的起点：定下之后还要问丢过数据没有
            checked = partial(self._checked, quiet, answer, done)
            self._log.losing(self._clock()).add_done_callback(checked)
        else:
            done(quiet)

    def _checked(self, quiet: Quiet, answer: Any, done: Done, lost: asyncio.Task[bool]) -> None:
        whole = not lost.cancelled() and lost.exception() is None and not lost.result()
        done(quiet if whole else Unfinished(_in_full(answer, quiet.newest)))

    async def open(
        self, who: Newcomer, newest: int, answer: list[Any] | None = None
    ) -> Arrived | None:
        """座位满了则 None；常态一次往返，满了再加两次。``newest``：新人的广播从它之后算起。

        ``answer`` 是 ``begin`` 问来的。
        """
        if answer is None:
            answer = await _arrive.run(self._lean, *self._question(who, newest, 0))
        if answer[0] != 1 and answer[0][0] < 0:
            dead = await self._seats.dead(answer[0][1:])
            answer = await _arrive.run(self._lean, *self._question(who, newest, 1, *dead))
        if len(answer) == 1:
            return None
        if len(answer) == _QUIET:
            answer = _in_full(answer, newest)
        verdict, found, cursor, begun = answer
        return Arrived(verdict[1], opened(found), (cursor, begun))

    def _question(
        self, who: Newcomer, newest: int, *seat: Argument
    ) -> tuple[list[Argument], list[Argument]]:
        """``arrive.lua`` 的键与参数；``seat`` 是 ``seat_claim.lua`` 的第九个参数起。"""
        user_id, connection_id, device_id, resume = who
        boxes, log, seats = self._mailboxes, self._log, self._seats
        rules = seats.rules
        return _names(self._keys.prefix, user_id), [
            *(boxes.fresh_epoch(), boxes.seq_ttl_ms),
            *(
                ("", 0, 0)
                if resume is None
                else (resume.epoch, resume.last_seq, int(resume.proven))
            ),
            *(log.cursor_ttl_ms, newest if log.whole else "", newest),
            *(user_id, connection_id, seats.node.id, device_id),
            *(rules.limit, rules.policy, rules.ttl_ms, self._keys.system_channel, *seat),
        ]


def _names(prefix: str, user_id: int) -> list[Argument]:
    """``arrive.lua`` 的七个键，以它的次序；名字见 ``Keys``：一条连接一次，不各拼一遍。"""
    tag = f":{{{user_id}}}"
    return [
        f"{prefix}user_seq{tag}",
        f"{prefix}offline_messages{tag}",
        f"{prefix}message_log{tag}",
        f"{prefix}expired_messages{tag}",
        f"{prefix}evicted_messages{tag}",
        f"{prefix}user_slots{tag}",
        f"{prefix}broadcast_cursor{tag}",
    ]


def _in_full(quiet: list[Any], newest: int) -> list[Any]:
    """没有什么在等他的回答，写成有什么在等的那样。"""
    _, seat, epoch, seq, resumed, begun = quiet
    found = [epoch, seq, b"resumed" if resumed else b"", [], [], [None] * 4, [], []]
    return [[1, seat], found, [b"at", b"%d" % newest], begun]
