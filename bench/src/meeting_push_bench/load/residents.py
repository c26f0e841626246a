"""一个负载进程里的用户：一个不少地连上，发给他们的一条不少地到；少了就没有数字。

他们在自己的进程里，不与别人（捣乱的、量的）争事件循环。
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from meeting_push.monitoring.latency import LatencyHistogram
from meeting_push.redis.keys import Keys

from ..accounts import Accounts
from ..failure import BenchError
from ..progress import OnProgress, silent
from ..target import Target
from .orders import (
    Dialect,
    Join,
    Joined,
    Leave,
    Left,
    Look,
    Post,
    Posted,
    PublishSteady,
    Seen,
    Steady,
)
from .team import Hand

#: 全部发出之后，最后几条到达的期限。
GRACE_S: Final = 10.0
_POLL_S: Final = 0.01
#: 开环的 POST 同时在途的上限。
_OPEN_CONNECTIONS: Final = 32
_ACCEPTED: Final = "202"
_FRAME_BYTES: Final = 160


class Residents:
    def __init__(self, target: Target, hand: Hand) -> None:
        self._target = target
        self._hand = hand

    async def connect(
        self,
        user_ids: Sequence[int],
        *,
        heartbeat_interval_s: float,
        concurrency: int = 8,
        counted_bytes: int | None = None,
        dialect: Dialect = "meeting-push",
        on_progress: OnProgress = silent,
    ) -> float:
        """每一项一条连接；返回用时（秒）。

        :param counted_bytes: 只数这么长的帧，不确认；None：逐条确认，记延迟
        :raises BenchError: 有一条没连上
        """
        order = Join(
            target=self._target,
            user_ids=list(user_ids),
            first_index=0,
            concurrency=concurrency,
            heartbeat_interval_s=heartbeat_interval_s,
            measure_every=1 if counted_bytes is None else 0,
            frame_bytes=counted_bytes or 0,
            dialect=dialect,
        )
        start = time.perf_counter()
        joined = await self._hand.ask(order, Joined, on_progress)
        if joined.connected != len(user_ids):
            total = len(user_ids)
            raise BenchError(f"{joined.connected} of {total} connected: {joined.failures}")
        return time.perf_counter() - start

    async def leave(self) -> None:
        """断开全部。

        :raises BenchError: 有的早已被服务器断开：那样的数字没有意义
        """
        left = await self._hand.ask(Leave(), Left)
        if left.lost:
            raise BenchError(f"the server closed {left.lost} of {left.sockets} sockets")

    async def post(self, accounts: Accounts, seconds: float, concurrency: int) -> Posted:
        """``concurrency`` 条长连接各自一条接一条。

        :raises BenchError: 有的被拒绝，或没有到达
        """
        order = self._order(accounts, seconds, concurrency, None)
        return (await self._post(order))[0]

    async def post_at_pace(
        self, accounts: Accounts, seconds: float, rate_per_s: float
    ) -> LatencyHistogram:
        """从*预定*的发送时刻到帧到达收件人的套接字，微秒（没有 coordinated omission）。

        :raises BenchError: 有的被拒绝，或没有到达
        """
        order = self._order(accounts, seconds, _OPEN_CONNECTIONS, rate_per_s)
        return (await self._post(order))[1]

    async def publish_at_pace(
        self, user_ids: Sequence[int], seconds: float, rate_per_s: float
    ) -> LatencyHistogram:
        """同 ``post_at_pace``，但是瞬时帧。"""
        keys = Keys(self._target.key_prefix)
        order = PublishSteady(
            target=self._target,
            channels=[keys.user_channel(user) for user in user_ids],
            rate_per_s=rate_per_s,
            duration_s=seconds,
            frame_bytes=_FRAME_BYTES,
        )
        before = await self._look(afresh=True)
        steady = await self._hand.ask(order, Steady)
        return await self._all_arrived(before.received + steady.sent)

    def _order(
        self, accounts: Accounts, seconds: float, connections: int, rate_per_s: float | None
    ) -> Post:
        return Post(
            target=self._target,
            token=self._target.token(accounts.sender_id),
            recipient_ids=accounts.recipient_ids,
            recipients_per_message=1,
            messages_per_request=1,
            duration_s=seconds,
            connections=connections,
            rate_per_s=rate_per_s,
        )

    async def _post(self, order: Post) -> tuple[Posted, LatencyHistogram]:
        before = await self._look(afresh=True)
        posted = await self._hand.ask(order, Posted)
        if set(posted.answers) != {_ACCEPTED}:
            raise BenchError(f"POST /messages answered {posted.answers}")
        return posted, await self._all_arrived(before.received + posted.recipients)

    async def _all_arrived(self, total: int) -> LatencyHistogram:
        """等到了才返回：不把积压留给下一段测量。"""
        latency, deadline = LatencyHistogram(), time.monotonic() + GRACE_S
        while True:
            seen = await self._look()
            latency = latency.merge(seen.latency)
            if seen.received >= total:
                return latency
            if time.monotonic() > deadline:
                raise BenchError(f"{total - seen.received} messages did not arrive")
            await asyncio.sleep(_POLL_S)

    async def _look(self, *, afresh: bool = False) -> Seen:
        return await self._hand.ask(Look(afresh=afresh), Seen)
