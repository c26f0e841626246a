"""REST 发送需要真实的账号：一个发送者，几个收件人。"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from meeting_push.client.rest_client import RestClient
from meeting_push.errors import MeetingPushError

from .failure import BenchError
from .target import Target


@dataclass(frozen=True, slots=True)
class Accounts:
    sender_id: int
    recipient_ids: list[int]


def make_accounts(target: Target, recipients: int) -> Accounts:
    """名字随机：对着同一个服务器再测一次也不会撞上。

    :raises BenchError: 服务器不让注册，或没有回答
    """
    try:
        ids = asyncio.run(_register(target, 1 + recipients))
    except MeetingPushError as error:
        raise BenchError(f"can not register accounts: {error.message}") from None
    return Accounts(ids[0], ids[1:])


async def _register(target: Target, count: int) -> list[int]:
    api = RestClient(target.base_url)
    batch = secrets.token_hex(4)
    password = secrets.token_urlsafe(16)
    return [
        (await api.register(f"bench-{batch}-{index}", password)).user_id for index in range(count)
    ]
