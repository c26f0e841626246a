"""发送的一方：照计划 POST；有键的得不到回答就用同一个键重试，直到 2xx。"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

from ..failure import BenchError
from ..post_connection import TIMEOUT_S, PostConnection, post_head
from .history import Answered, HistoryWriter, Intended, Intent, now_ms, title
from .ledger import Ledger
from .patience import Patience
from .rules.idempotency import REFUSED
from .schedule import LATER_MS, PlannedDraft, PlannedPost
from .town import Town

#: 一条消息反复重试这么久仍不成，这次运行就没有意义了。
GIVE_UP_S: Final = 180.0
_RETRY_S: Final = 0.3
_OUTCOME_UNKNOWN: Final = b'"outcome_unknown"'
_ACCEPTED: Final = 202
_CLIENT_ERRORS: Final = range(400, 500)


class _One(msgspec.Struct):
    message_id: str


class _Batch(msgspec.Struct):
    results: list[_One]


class Writers:
    """``run`` 发完全部计划才返回；``progress`` 是发完了几个。"""

    def __init__(self, town: Town, ledger: Ledger, history: HistoryWriter) -> None:
        self._town = town
        self._ledger = ledger
        self._history = history
        self._start = time.monotonic()
        self.progress = 0

    async def run(self, count: int) -> None:
        """:raises BenchError: 有一条怎样也发不出去，或服务器说请求本身不对"""
        self._start = time.monotonic()
        posts = iter(enumerate(self._ledger.schedule.posts))
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._write(posts, number), name=f"writer-{number}")

    async def _write(self, posts: Iterator[tuple[int, PlannedPost]], number: int) -> None:
        writer = _Writer(self._town, self._ledger, self._history, number)
        try:
            for post, planned in posts:
                await asyncio.sleep(max(0, self._start + planned.at_s - time.monotonic()))
                await writer.write(post, planned)
                self.progress += 1
        finally:
            await writer.close()


class _Writer:
    """一条长连接，一次一个请求；断了就换下一个 api。"""

    def __init__(self, town: Town, ledger: Ledger, history: HistoryWriter, number: int) -> None:
        self._town = town
        self._ledger = ledger
        self._history = history
        self._api = number
        self._connection: PostConnection | None = None

    async def write(self, post: int, planned: PlannedPost) -> None:
        body = self._intend(post, planned)
        patience = Patience(GIVE_UP_S, step_s=TIMEOUT_S)
        while not await self._attempt(post, planned, body):
            if patience.over():
                raise BenchError(f"post {post} was not accepted within {GIVE_UP_S:.0f} s")
            await asyncio.sleep(_RETRY_S)
        if planned.again:
            await self._attempt(post, planned, body)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _intend(self, post: int, planned: PlannedPost) -> bytes:
        """记下本意，返回请求的正文：重试时一字不差。"""
        ledger = self._ledger
        drafts = [
            _draft_body(title(post, index), draft, ledger.recipients(draft))
            for index, draft in enumerate(planned.drafts)
        ]
        self._history.write(
            Intended(
                at=now_ms(),
                post=post,
                sender_id=ledger.senders[planned.sender],
                key=_key(post) if planned.keyed else None,
                intents=tuple(
                    _intent(draft, body) for draft, body in zip(planned.drafts, drafts, strict=True)
                ),
            )
        )
        return msgspec.json.encode({"messages": drafts} if planned.batch else drafts[0])

    async def _attempt(self, post: int, planned: PlannedPost, body: bytes) -> bool:
        """发一次；True 表示不必再试（成了，或没有键而结果不明）。"""
        try:
            connection = await self._connect()
        except BenchError:
            return False  # 没连上：什么也没有发出去
        status, ids = await self._post(connection, post, planned, body)
        self._history.write(Answered(at=now_ms(), post=post, status=status, message_ids=ids))
        if status in _CLIENT_ERRORS and status not in REFUSED:
            raise BenchError(f"post {post} was answered {status}")
        sender_id = self._ledger.senders[planned.sender]
        self._ledger.accepted.extend((message_id, sender_id) for message_id in ids)
        return status == _ACCEPTED or not (planned.keyed or status in REFUSED)

    async def _connect(self) -> PostConnection:
        if self._connection is None:
            apis = self._town.apis
            self._api += 1
            target = apis[self._api % len(apis)].target
            self._connection = await PostConnection.open(target.host, target.port)
        return self._connection

    async def _post(
        self, connection: PostConnection, post: int, planned: PlannedPost, body: bytes
    ) -> tuple[int, tuple[str, ...]]:
        try:
            status, answer = await connection.post(self._head(post, planned), body)
            if status in REFUSED and _OUTCOME_UNKNOWN in answer:
                return 0, ()  # 也许存了：与没有得到回答一样
            return status, _ids(planned, answer) if status == _ACCEPTED else ()
        except BenchError:
            await self.close()
            return 0, ()

    def _head(self, post: int, planned: PlannedPost) -> bytes:
        target = self._town.apis[0].target
        path = "/api/v1/messages/batch" if planned.batch else "/api/v1/messages"
        token = target.token(self._ledger.senders[planned.sender])
        head = post_head(target.host, target.port, path, token)
        return head + f"Idempotency-Key: {_key(post)}\r\n".encode() if planned.keyed else head


def _ids(planned: PlannedPost, answer: bytes) -> tuple[str, ...]:
    if planned.batch:
        results = msgspec.json.decode(answer, type=_Batch).results
        return tuple(result.message_id for result in results)
    return (msgspec.json.decode(answer, type=_One).message_id,)


def _key(post: int) -> str:
    return f"chaos-{post}"


def _draft_body(name: str, draft: PlannedDraft, recipients: tuple[int, ...]) -> dict[str, object]:
    body: dict[str, object] = {
        "recipient_ids": recipients,
        "title": name,
        "content": _content(name, draft.content_bytes),
        "priority": draft.priority,
        "data": {"hold": draft.hold},
    }
    if draft.delay_s:
        body["deliver_at"] = now_ms() + int(draft.delay_s * 1000)
    return body


def _content(name: str, size: int) -> str:
    """每条都不同，张冠李戴就看得出来；长的压得动。"""
    return (f"{name} " * (size // (len(name) + 1) + 1))[:size]


def _intent(draft: PlannedDraft, body: dict[str, object]) -> Intent:
    recipients, content = body["recipient_ids"], body["content"]
    assert isinstance(recipients, tuple)
    assert isinstance(content, str)
    return Intent(
        recipients=recipients,
        priority=draft.priority,
        crc=zlib.crc32(content.encode()),
        hold=draft.hold,
        later=draft.delay_s * 1000 > LATER_MS,
    )
