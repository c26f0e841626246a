"""跟着一条消息：SQL 的记录与各进程的飞行记录仪，合成每个收件人的一串事。"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import msgspec

from ..errors import NotFoundError, RateLimitedError, UnavailableError
from ..model import DeliveryStatus
from ..node.control_channel import ControlChannel
from ..node.flight_recorder import Answer, FlightAnswers, TraceAsk
from ..redis.redis_service import RedisService
from ..storage.recipients import DeliveryReports
from ..storage.rows import MessageHead, RecipientTimes
from .report import NodeReports

#: 各进程至多这么久来回答。
ANSWER_S: Final = 1.0
#: 隔多久看一次答案到齐没有；一次比一次久。
FIRST_LOOK_S: Final = 0.01
#: 一个请求至多给出这么多件事。
MAX_EVENTS: Final = 1_000

#: 同一毫秒里的先后。
_ORDER: Final = (
    *("accepted", "enqueued", "taken", "delivered", "retried"),
    *("pushed", "acked", "failed", "expired", "read"),
)
_RANKS: Final = {stage: rank for rank, stage in enumerate(_ORDER)}

_answers: Final = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """``source``：``record`` 是 SQL 记着的，``recorder`` 是某个进程内存里的。"""

    stage: str
    at: int
    node_id: str | None
    source: Literal["record", "recorder"]
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class TracedRecipient:
    times: RecipientTimes
    events: list[TraceEvent]


@dataclass(frozen=True, slots=True)
class Trace:
    """``truncated``：记录仪看到的不止这些；``fleet_asked`` 为假：Redis 不在，只有这个进程的。"""

    head: MessageHead
    recipients: list[TracedRecipient]
    next_cursor: int | None
    silent_nodes: list[str]
    truncated: bool
    fleet_asked: bool


@dataclass(slots=True)
class _Heard:
    """各进程的回答。"""

    answers: list[Answer]
    silent: list[str] = field(default_factory=list)
    fleet_asked: bool = True


class Tracer:
    """同时只问一次；一次至多一秒。"""

    def __init__(
        self,
        record: DeliveryReports,
        answers: FlightAnswers,
        control: ControlChannel,
        redis: RedisService,
        reports: NodeReports,
    ) -> None:
        self._record = record
        self._own = answers
        self._control = control
        self._redis = redis
        self._reports = reports
        self._asking = asyncio.Lock()

    async def trace(
        self, message_id: str, cursor: int, limit: int, recipient: int | None = None
    ) -> Trace:
        """``user_id`` 大于 ``cursor`` 的前 ``limit`` 个收件人的；给了 ``recipient`` 就只看他。

        :raises NotFoundError: 没有这条消息，或他不是它的收件人
        :raises RateLimitedError: 有人正在问
        """
        if self._asking.locked():
            raise RateLimitedError("somebody is following a message already", retry_after_s=1)
        async with self._asking:
            head = await self._record.head(message_id)
            if head is None:
                raise NotFoundError("no such message")
            after = cursor if recipient is None else recipient - 1
            page = await self._record.times(message_id, after, limit, recipient)
            if recipient is not None and not page.items:
                raise NotFoundError("not a recipient of the message")
            ids = [one.user_id for one in page.items]
            heard = await self._ask(message_id, ids)
        told = _Telling(head, heard.answers)
        recipients = [told.recipient(times) for times in page.items]
        return Trace(
            head=head,
            recipients=recipients,
            next_cursor=page.next_cursor if recipient is None else None,
            silent_nodes=heard.silent,
            truncated=told.truncated,
            fleet_asked=heard.fleet_asked,
        )

    async def _ask(self, message_id: str, recipients: list[int]) -> _Heard:
        own = self._own.own(message_id, recipients)
        try:
            others = {one.node_id for one in await self._reports.read()} - {own.node_id}
            if not others:
                return _Heard([own])
            nonce = secrets.token_hex(8)
            ask = TraceAsk(
                nonce=nonce, asker=own.node_id, message_id=message_id, recipients=recipients
            )
            await self._control.publish(ask)
            heard = await self._collect(nonce, others)
        except UnavailableError:  # 记录还在：说得出的先说
            return _Heard([own], fleet_asked=False)
        silent = others - {answer.node_id for answer in heard}
        return _Heard([own, *heard], sorted(silent))

    async def _collect(self, nonce: str, others: set[str]) -> list[Answer]:
        key, heard, missing = self._redis.keys.trace_answers(nonce), list[Answer](), set(others)
        seen, pause_s, until = 0, FIRST_LOOK_S, time.monotonic() + ANSWER_S
        while missing and (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s *= 1.5
            raw = await self._redis.answers(key, seen)
            seen += len(raw)
            heard += [answer for one in raw if (answer := _decode(one)) is not None]
            missing -= {answer.node_id for answer in heard}
        return heard


def _decode(raw: bytes) -> Answer | None:
    try:
        return _answers.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # 另一个版本写的：当它没有答
        return None


class _Telling:
    """把听到的分给一页收件人。"""

    def __init__(self, head: MessageHead, answers: Sequence[Answer]) -> None:
        self._head = head
        self._seen = [(answer.node_id, each) for answer in answers for each in answer.sightings]
        self._stages = {sighting.stage for _, sighting in self._seen}
        self._left = MAX_EVENTS
        self.truncated = any(answer.truncated for answer in answers)

    def recipient(self, times: RecipientTimes) -> TracedRecipient:
        recorded = list(self._recorded(times))
        lasting = [_located(each, recorded) for each in self._lasting(times)]
        events = [*lasting, *recorded]
        events.sort(key=lambda each: (each.at, _RANKS[each.stage]))
        if len(events) > self._left:
            self.truncated = True
        events, self._left = events[: self._left], max(0, self._left - len(events))
        return TracedRecipient(times, events)

    def _lasting(self, times: RecipientTimes) -> Iterator[TraceEvent]:
        """记录着的。``enqueued_at`` 是成批记下的，最多晚 0.25 秒：看到过真的就不说它。"""
        head = self._head
        expired_at = head.expires_at if times.status is DeliveryStatus.EXPIRED else None
        enqueued_at = None if "enqueued" in self._stages else head.enqueued_at
        for stage, at, detail in (
            ("accepted", head.created_at, None),
            ("enqueued", enqueued_at, "noted up to 250 ms late"),
            ("pushed", times.sent_at, None),
            ("acked", times.delivered_at, None),
            ("failed", times.failed_at, times.failure_reason),
            ("expired", expired_at, None),
            ("read", times.read_at, None),
        ):
            if at is not None:
                yield TraceEvent(stage, at, None, "record", detail)

    def _recorded(self, times: RecipientTimes) -> Iterator[TraceEvent]:
        for node_id, one in self._seen:
            if one.first == 0 or one.first <= times.user_id <= one.last:
                detail = one.connection_id or (f"attempt {one.number}" if one.number else None)
                yield TraceEvent(one.stage, one.at, node_id, "recorder", detail)


def _located(event: TraceEvent, recorded: list[TraceEvent]) -> TraceEvent:
    """同一站、同一毫秒的是同一件事：从 ``recorded`` 拿走，记录由此知道在哪个节点。"""
    for at, twin in enumerate(recorded):
        if (twin.stage, twin.at) == (event.stage, event.at):
            del recorded[at]
            return replace(event, node_id=twin.node_id)
    return event
