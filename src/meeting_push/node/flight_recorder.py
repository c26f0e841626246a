"""飞行记录仪：一条消息在这个进程里走过哪几站，各在何时；只在内存里，有界，丢了无妨。

长久的时刻在 SQL。这里的是更细的：取出、进信箱、每一次推送、哪个节点。每一站一个环，写的一方只往
里放一个现成的小元组，热路上不看钟、不建对象、不多一次循环；花费见 ``docs/operations.md``。

要看时经控制频道问所有进程：各自从环里找出来，放进 Redis 的一个列表，问的人来取。
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from ..errors import MeetingPushError
from ..logs import logger
from ..node_identity import NodeIdentity
from ..redis.redis_service import RedisService
from ..supervision import Tasks
from .control_channel import ControlCommand

Stage = Literal["accepted", "enqueued", "taken", "delivered", "pushed", "acked", "retried"]

#: 一个进程的一份回答至多说这么多件。
MAX_SIGHTINGS: Final = 1_000
#: 回答在 Redis 里留这么久：问的人一秒之内就来取。
ANSWER_TTL_MS: Final = 5_000
#: 一次至多收这么多份回答。
MAX_ANSWERS: Final = 512


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """一件事；``first``～``last`` 是哪些收件人（一段升序的 id 的首尾；0～0：整条消息）。

    ``number``：第几次（``taken``、``delivered``、``retried``），几台设备不知道。
    """

    stage: Stage
    at: int
    first: int = 0
    last: int = 0
    number: int = 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """一个进程看到的；``truncated``：不止这些。"""

    node_id: str
    sightings: list[Sighting]
    truncated: bool


class FlightRecorder:
    """``entries``：每一站记住多少件，0 = 不记。环由各站直接 ``append``、``extend``。"""

    def __init__(self, entries: int) -> None:
        #: (毫秒, message_id)
        self.accepted = deque[tuple[int, str]](maxlen=entries)
        self.enqueued = deque[tuple[int, str]](maxlen=entries)
        #: (毫秒, message_id, 第一个收件人, 最后一个, 第几次)；一项的收件人升序
        self.taken = deque[tuple[int, str, int, int, int]](maxlen=entries)
        self.delivered = deque[tuple[int, str, int, int, int]](maxlen=entries)
        #: (毫秒, (seq, message_id), 用户的频道)：实时的
        self.pushed = deque[tuple[int, tuple[int, str], bytes]](maxlen=entries)
        #: (毫秒, message_id, user_id)：补发的
        self.flushed = deque[tuple[int, str, int]](maxlen=entries)
        #: (确认的毫秒, message_id, user_id, 那条连接推它的毫秒)
        self.acked = deque[tuple[int, str, int, int]](maxlen=entries)
        #: (毫秒, message_id, user_id, 第几次)
        self.retried = deque[tuple[int, str, int, int]](maxlen=entries)

    def find(self, message_id: str, first: int, last: int) -> Iterator[Sighting]:
        """这条消息、``first``～``last`` 的收件人的；一万件的环约 3 ms，不让出。"""
        yield from self._whole(message_id)
        for sighting in self._of_recipients(message_id):
            if sighting.first <= last and sighting.last >= first:
                yield sighting

    def _whole(self, message_id: str) -> Iterator[Sighting]:
        for at, name in self.accepted:
            if name == message_id:
                yield Sighting("accepted", at)
        for at, name in self.enqueued:
            if name == message_id:
                yield Sighting("enqueued", at)

    def _of_recipients(self, message_id: str) -> Iterator[Sighting]:
        entries: tuple[tuple[Stage, deque[tuple[int, str, int, int, int]]], ...] = (
            ("taken", self.taken),
            ("delivered", self.delivered),
        )
        for stage, ring in entries:
            for at, name, first, last, attempt in ring:
                if name == message_id:
                    yield Sighting(stage, at, first, last, attempt)
        yield from self._pushes(message_id)
        for acked_at, name, user_id, _ in self.acked:
            if name == message_id:
                yield Sighting("acked", acked_at, user_id, user_id)
        for at, name, user_id, attempt in self.retried:
            if name == message_id:
                yield Sighting("retried", at, user_id, user_id, attempt)

    def _pushes(self, message_id: str) -> Iterator[Sighting]:
        for at, key, channel in self.pushed:
            if key[1] == message_id:
                user_id = _owner(channel)
                yield Sighting("pushed", at, user_id, user_id)
        for at, name, user_id in self.flushed:
            if name == message_id:
                yield Sighting("pushed", at, user_id, user_id)


def _owner(channel: bytes) -> int:
    """``user:{42}:messages`` → 42；前缀里也许也有花括号。"""
    return int(channel[channel.rfind(b"{") + 1 : channel.rfind(b"}")])


#: 不记的。
OFF: Final = FlightRecorder(0)


# ── 问与答 ───────────────────────────────────────────────────────────────────


class TraceAsk(ControlCommand, frozen=True, kw_only=True, tag="trace"):
    """都来说说看到的（``asker`` 自己不用）；``nonce`` 是回答放进哪个列表。"""

    nonce: str
    asker: str
    message_id: str
    first: int
    last: int


class FlightAnswers:
    """这个进程的回答；同时只答一份，忙着时来的不答（问的人会说这个节点没有答）。"""

    def __init__(self, recorder: FlightRecorder, redis: RedisService, node: NodeIdentity) -> None:
        self._recorder = recorder
        self._redis = redis
        self._node = node
        self._tasks = Tasks()
        #: 忙着而没有答的，只增。
        self.refused = 0
        self.close = self._tasks.close

    def own(self, message_id: str, first: int, last: int) -> Answer:
        found: list[Sighting] = []
        for sighting in self._recorder.find(message_id, first, last):
            if len(found) == MAX_SIGHTINGS:
                return Answer(node_id=self._node.id, sightings=found, truncated=True)
            found.append(sighting)
        return Answer(node_id=self._node.id, sightings=found, truncated=False)

    def take(self, ask: TraceAsk) -> None:
        """控制频道来的；同步，不抛出。"""
        if ask.asker == self._node.id:
            return
        if len(self._tasks):
            self.refused += 1
        else:
            self._tasks.spawn(self._answer(ask), "trace_answer")

    async def _answer(self, ask: TraceAsk) -> None:
        own = msgspec.json.encode(self.own(ask.message_id, ask.first, ask.last))
        key = self._redis.keys.trace_answers(ask.nonce)
        try:
            await self._redis.add_answer(key, own, most=MAX_ANSWERS, ttl_ms=ANSWER_TTL_MS)
        except MeetingPushError as error:  # 问的人会说这个节点没有答
            logger.bind(code=error.code, cause=error.cause).debug("trace_not_answered")
