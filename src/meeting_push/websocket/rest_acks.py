"""从 REST 来的确认：按 id 的，问信箱；到某个 seq 为止的，问握着那条连接的进程。

推过什么只有那条连接的会话知道，所以后一种在它那里做，不在别处猜：别处的只看得见信箱，里面也许有这条
连接还没有推到的。
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from ..clock import Clock, now_ms
from ..contracts import AckSink
from ..errors import MeetingPushError, UnavailableError, UnknownConnectionError
from ..logs import logger
from ..model import AckOutcome, ConnectionInfo
from ..node.control_channel import ControlChannel, ControlCommand
from ..protocol.commands import Acked
from ..protocol.frames import AckFrame
from ..redis.redis_service import RedisService
from ..supervision import Tasks
from .line import UserConnection
from .manager import ConnectionManager

#: 别的进程至多这么久来回答。
ANSWER_S: Final = 2.0
#: 隔多久看一次回答来了没有；一次比一次久。
FIRST_LOOK_S: Final = 0.005
#: 回答在 Redis 里留这么久。
ANSWER_TTL_MS: Final = 5_000
#: 没有这条连接。
ABSENT: Final = -1
#: 目录至多这么久重读一次：乱说 id 的人不能让我们一遍遍地读。
REFRESH_S: Final = 1.0


class AckUpto(ControlCommand, frozen=True, kw_only=True, tag="ack_upto"):
    """确认那条连接上推过的、seq 不超过 ``upto`` 的；``node`` 是握着它的。

    ``nonce``：回答（条数，没有这条连接是 -1）放进哪个列表。
    """

    node: str
    user_id: int
    connection_id: str
    upto: int
    nonce: str


class RestAcks:
    """``presence``：一个人此刻的连接，不论在哪个进程；``refresh``：自己听不到广播的进程，先读一遍
    广播的目录，否则不认识它们。"""

    def __init__(
        self,
        manager: ConnectionManager,
        sink: AckSink,
        *,
        presence: Callable[[int], Awaitable[Collection[ConnectionInfo]]],
        control: ControlChannel,
        redis: RedisService,
        refresh: Callable[[], Awaitable[None]] | None = None,
        clock: Clock = now_ms,
    ) -> None:
        self._manager = manager
        self._sink = sink
        self._presence = presence
        self._control = control
        self._redis = redis
        self._refresh = refresh
        self._refresh_at = 0.0
        self._clock = clock
        self._tasks = Tasks()
        self.close = self._tasks.close
        control.on(AckUpto, self._take)

    async def by_ids(self, user_id: int, message_ids: Sequence[str]) -> AckOutcome:
        """推在本进程的连接上的，当场；别的问信箱。

        :raises UnavailableError: 此刻问不到；再来无害
        """
        rest, accepted = list(dict.fromkeys(message_ids)), 0
        for connection in self._manager.get_user_connections(user_id):
            if rest:
                acked = self._acked(connection, AckFrame(message_ids=rest))
                accepted, rest = accepted + len(acked.acks), acked.unverified
        outcome = await self._confirm(user_id, rest)
        return AckOutcome(accepted + outcome.accepted, outcome.unknown)

    async def _confirm(self, user_id: int, message_ids: Sequence[str]) -> AckOutcome:
        if not message_ids:
            return AckOutcome(0)
        outcome = await self._sink.confirm(user_id, message_ids, self._clock())
        if outcome.unknown and self._refresh is not None and time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + REFRESH_S
            await self._refresh()
            again = await self._sink.confirm(user_id, outcome.unknown, self._clock())
            return AckOutcome(outcome.accepted + again.accepted, again.unknown)
        return outcome

    async def upto(self, user_id: int, connection_id: str, upto: int) -> int:
        """确认了几条。

        :raises UnknownConnectionError: 他没有这条连接
        :raises UnavailableError: 握着它的进程没有回答；再来无害
        """
        own = self._own(user_id, connection_id)
        if own is not None:
            return self._ack_upto(own, upto)
        nodes = [
            each.node
            for each in await self._presence(user_id)
            if each.connection_id == connection_id
        ]
        accepted = await self._ask(nodes[0], user_id, connection_id, upto) if nodes else ABSENT
        if accepted == ABSENT:
            raise UnknownConnectionError("no such connection")
        return accepted

    async def _ask(self, node: str, user_id: int, connection_id: str, upto: int) -> int:
        nonce = secrets.token_hex(8)
        await self._control.publish(
            AckUpto(node=node, user_id=user_id, connection_id=connection_id, upto=upto, nonce=nonce)
        )
        return await self._answer(self._redis.keys.ack_answers(nonce))

    async def _answer(self, key: str) -> int:
        pause_s, until = FIRST_LOOK_S, time.monotonic() + ANSWER_S
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s *= 1.5
            for answer in await self._redis.answers(key, 0):
                return int(answer)
        raise UnavailableError("the process that holds the connection did not answer")

    # ── 握着它的进程 ──────────────────────────────────────────────────────────

    def _take(self, ask: AckUpto) -> None:
        """控制频道来的；同步，不抛出。"""
        if ask.node != self._manager.node.id:
            return
        own = self._own(ask.user_id, ask.connection_id)
        accepted = ABSENT if own is None else self._ack_upto(own, ask.upto)
        self._tasks.spawn(self._say(ask.nonce, accepted), "ack_answer")

    async def _say(self, nonce: str, accepted: int) -> None:
        key = self._redis.keys.ack_answers(nonce)
        try:
            await self._redis.add_answer(key, b"%d" % accepted, most=1, ttl_ms=ANSWER_TTL_MS)
        except MeetingPushError as error:  # 问的人会说没有回答；已经记下了，再来无害
            logger.bind(code=error.code, cause=error.cause).debug("ack_not_answered")

    def _own(self, user_id: int, connection_id: str) -> UserConnection | None:
        for connection in self._manager.get_user_connections(user_id):
            if connection.connection_id == connection_id and connection.welcomed:
                return connection
        return None

    def _ack_upto(self, connection: UserConnection, upto: int) -> int:
        return len(self._acked(connection, AckFrame(upto=upto)).acks)

    def _acked(self, connection: UserConnection, frame: AckFrame) -> Acked:
        """推过、没有确认的，同 WebSocket 的 ``ack`` 一样记下；不在表里的留在 ``unverified``。"""
        command = connection.session.ack(frame, self._clock())
        assert isinstance(command, Acked), "the frame names something"
        self._manager.on_command(connection, Acked(command.acks, [], None))
        return command
