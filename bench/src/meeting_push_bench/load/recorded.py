"""发出的消息在服务器的记录里成了什么：逐条问 REST，等到都送达。"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ulid import ULID

from meeting_push.client.rest_client import RestClient
from meeting_push.errors import MeetingPushError
from meeting_push.monitoring.latency import LatencyHistogram

from ..failure import BenchError
from ..progress import OnProgress
from ..target import Target

#: 再多就抽样：每条消息一次 REST。
MAX_CHECKED: Final = 500
_GRACE_S: Final = 30.0
_AT_ONCE: Final = 4
_PAGE: Final = 200


@dataclass(slots=True)
class Records:
    """``recipients`` 是查过的消息的收件人；``latency``：接受 → 客户端的 ack，毫秒（墙上的钟）。"""

    messages: int = 0
    recipients: int = 0
    delivered: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


async def check_records(
    target: Target, sender_id: int, message_ids: Sequence[str], on_progress: OnProgress
) -> Records:
    """等到查的每一条都全部送达，或 ``_GRACE_S`` 到了。

    :raises BenchError: REST 不回答
    """
    step = max(1, -(-len(message_ids) // MAX_CHECKED))
    chosen = list(message_ids[::step])
    client = RestClient(target.base_url, target.token(sender_id))
    deadline, records = time.monotonic() + _GRACE_S, Records(messages=len(chosen))
    todo = iter(chosen)

    async def some() -> None:
        for message_id in todo:
            await _check(client, message_id, deadline, records)
            on_progress(len(chosen) - _left(todo), len(chosen))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(some())
    except* MeetingPushError as failures:
        raise BenchError(f"the delivery states: {failures.exceptions[0]}") from None
    return records


def _left(todo: object) -> int:
    left: int = todo.__length_hint__()  # type: ignore[attr-defined]
    return left


async def _check(client: RestClient, message_id: str, deadline: float, records: Records) -> None:
    report = await client.delivery(message_id, limit=_PAGE)
    total = report.total or 0  # 广播数不出人数；这里不问广播
    while report.delivered < total and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        report = await client.delivery(message_id, limit=_PAGE)
    accepted_at = ULID.from_str(message_id).milliseconds
    for recipient in report.recipients:
        if recipient.delivered_at is not None:
            records.latency.record(max(0, recipient.delivered_at - accepted_at))
    records.recipients += total
    records.delivered += report.delivered
