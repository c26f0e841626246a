"""飞行记录仪：一条消息在这个进程里走过哪几站，各在何时；只在内存里，有界，丢了无妨。

长久的时刻在 SQL。这里的是更细的：取出、进信箱、还没有确认的推送、哪个节点。每一站一个环，写的一方
每条消息只往里放一个小元组，都在那一站的百分之一以内；花费见 ``docs/operations.md``。

要看时经控制频道问所有进程：各自从环里找出来，放进 Redis 的一个列表，问的人来取。
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ..errors import MeetingPushError
from ..logs import logger
from ..node_identity import NodeIdentity
from ..redis.redis_service import RedisService
from ..supervision import Tasks
from .control_channel import ControlCommand

Stage = Literal["accepted", "enqueued", "taken", "delivered", "pushed", "acked", "retried"]

#: 一个进程的一份回答至多说这么多件。
MAX_SIGHTINGS: Final = 1_000
#: 一次至多问这么多个收件人的。
MAX_ASKED: Final = 100
#: 回答在 Redis 里留这么久：问的人一秒之内就来取。
ANSWER_TTL_MS: Final = 5_000
#: 一次至多收这么多份回答。
MAX_ANSWERS: Final = 512


#: 一项投递任务走到了哪里，见 ``FlightRecorder.taken``。
_Entry = tuple[int, str, int, int, int]


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """一件事；``first``～``last`` 是哪些收件人（一段升序的 id 的首尾；0～0：整条消息）。

    ``number``：第几次（``taken``、``delivered``、``retried``）；``connection_id``：推给了哪条连接。
    """

    stage: Stage
    at: int
    first: int = 0
    last: int = 0
    number: int = 0
    connection_id: str = ""


class Pushed(NamedTuple):
    """推给了谁的哪条连接；``at`` 是最近一次。"""

    at: int
    message_id: str
    user_id: int
    connection_id: str


#: 此刻连着的人：(message_id, 哪些人) → 推了还没有确认的。
LivePushes = Callable[[str, Sequence[int]], Iterable[Pushed]]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """一个进程看到的；``truncated``：不止这些。"""

    node_id: str
    sightings: list[Sighting]
    truncated: bool


class FlightRecorder:
    """``entries``：每一站记住多少件，0 = 不记。环由各站直接 ``append``、``extend``。

    推送不在其中：推一次记一件，连同挤掉最旧的，量得 0.4 µs，是一次推送的百分之四。没有确认的，会话
    本来就记着；确认了的，确认里有推的时刻；断了而没有确认的，断的时候记。
    """

    def __init__(self, entries: int) -> None:
        #: (毫秒, message_id)
        self.accepted = deque[tuple[int, str]](maxlen=entries)
        self.enqueued = deque[tuple[int, str]](maxlen=entries)
        #: (毫秒, message_id, 第一个收件人, 最后一个, 第几次)；一项的收件人升序
        self.taken = deque[_Entry](maxlen=entries)
        self.delivered = deque[_Entry](maxlen=entries)
        #: 推了没有确认，连接断了：同 ``Pushed``
        self.unacked = deque[tuple[int, str, int, str]](maxlen=entries)
        #: (确认的毫秒, message_id, user_id, 那条连接推它的毫秒)
        self.acked = deque[tuple[int, str, int, int]](maxlen=entries)
        #: (毫秒, message_id, user_id, 第几次)
        self.retried = deque[tuple[int, str, int, int]](maxlen=entries)

    def find(self, message_id: str, user_ids: Collection[int]) -> Iterator[Sighting]:
        """这条消息、这些收件人的；一万件的环约 3 ms，不让出。"""
        yield from self._whole(message_id)
        if user_ids:
            yield from self._of_entries(message_id, min(user_ids), max(user_ids))
        for sighting in self._of_recipients(message_id):
            if sighting.first in user_ids:
                yield sighting

    def _whole(self, message_id: str) -> Iterator[Sighting]:
        for at, name in self.accepted:
            if name == message_id:
                yield Sighting("accepted", at)
        for at, name in self.enqueued:
            if name == message_id:
                yield Sighting("enqueued", at)

    def _of_entries(self, message_id: str, low: int, high: int) -> Iterator[Sighting]:
        rings: tuple[tuple[Stage, deque[_Entry]], ...] = (
            ("taken", self.taken),
            ("delivered", self.delivered),
        )
        for stage, ring in rings:
            for at, name, first, last, attempt in ring:
                if name == message_id and first <= high and last >= low:
                    yield Sighting(stage, at, first, last, attempt)

    def _of_recipients(self, message_id: str) -> Iterator[Sighting]:
        for at, name, user_id, connection_id in self.unacked:
            if name == message_id:
                yield pushed_to(user_id, at, connection_id)
        for acked_at, name, user_id, pushed_at in self.acked:
            if name == message_id:
                yield pushed_to(user_id, pushed_at)
                yield Sighting("acked", acked_at, user_id, user_id)
        for at, name, user_id, attempt in self.retried:
            if name == message_id:
                yield Sighting("retried", at, user_id, user_id, attempt)


def pushed_to(user_id: int, at: int, connection_id: str = "") -> Sighting:
    return Sighting("pushed", at, user_id, user_id, 0, connection_id)


#: 不记的。
OFF: Final = FlightRecorder(0)


# ── 问与答 ───────────────────────────────────────────────────────────────────


class TraceAsk(ControlCommand, frozen=True, kw_only=True, tag="trace"):
    """都来说说看到的（``asker`` 自己不用）；``nonce`` 是回答放进哪个列表。"""

    nonce: str
    asker: str
    message_id: str
    recipients: Annotated[list[int], Meta(max_length=MAX_ASKED)]


class FlightAnswers:
    """这个进程的回答；同时只答一份，忙着时来的不答（问的人会说这个节点没有答）。"""

    def __init__(
        self,
        recorder: FlightRecorder,
        redis: RedisService,
        node: NodeIdentity,
        live: LivePushes = lambda _message_id, _user_ids: (),
    ) -> None:
        self._recorder = recorder
        self._live = live
        self._redis = redis
        self._node = node
        self._tasks = Tasks()
        #: 忙着而没有答的，只增。
        self.refused = 0
        self.close = self._tasks.close

    def own(self, message_id: str, user_ids: Sequence[int]) -> Answer:
        live = (
            pushed_to(each.user_id, each.at, each.connection_id)
            for each in self._live(message_id, user_ids)
        )
        seen = chain(self._recorder.find(message_id, set(user_ids)), live)
        found = list(islice(seen, MAX_SIGHTINGS))
        return Answer(
            node_id=self._node.id, sightings=found, truncated=next(seen, None) is not None
        )

    def take(self, ask: TraceAsk) -> None:
        """控制频道来的；同步，不抛出。"""
        if ask.asker == self._node.id:
            return
        if len(self._tasks):
            self.refused += 1
        else:
            self._tasks.spawn(self._answer(ask), "trace_answer")

    async def _answer(self, ask: TraceAsk) -> None:
        own = msgspec.json.encode(self.own(ask.message_id, ask.recipients))
        key = self._redis.keys.trace_answers(ask.nonce)
        try:
            await self._redis.add_answer(key, own, most=MAX_ANSWERS, ttl_ms=ANSWER_TTL_MS)
        except MeetingPushError as error:  # 问的人会说这个节点没有答
            logger.bind(code=error.code, cause=error.cause).debug("trace_not_answered")
