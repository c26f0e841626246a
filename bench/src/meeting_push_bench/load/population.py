"""谁在线，谁有账号：耐久消息的收件人必须存在，只收瞬时消息的不必。"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

from meeting_push.client.rest_client import RestClient
from meeting_push.clock import now_ms
from meeting_push.errors import MeetingPushError
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database

from ..failure import BenchError
from ..progress import OnProgress, silent
from .servers import Servers

#: 没有账号的用户：远离任何真实的 id（对着已有的服务器时也是）。
FIRST_VIRTUAL_ID: Final = 900_000_000_001
#: 谁也登录不了：没有一个密码的散列是它。
_NO_PASSWORD: Final = "!"  # noqa: S105
_AT_ONCE: Final = 200
_REGISTERING: Final = 4
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Population:
    """``user_ids`` 是要连上的全部，有账号的在前。"""

    sender_id: int
    account_ids: list[int]
    user_ids: list[int]


async def populate(
    servers: Servers, sockets: int, accounts: int, on_progress: OnProgress
) -> Population:
    """建 ``accounts`` 个账号与一个发送者；名字随机，再测一次也不会撞上。

    :raises BenchError: 建不成
    """
    wanted = min(accounts, sockets)
    ids = await _accounts(servers, wanted + 1, on_progress) if wanted else [FIRST_VIRTUAL_ID - 1]
    virtual = range(FIRST_VIRTUAL_ID, FIRST_VIRTUAL_ID + sockets - wanted)
    return Population(ids[0], ids[1:], [*ids[1:], *virtual])


async def _accounts(servers: Servers, count: int, on_progress: OnProgress) -> list[int]:
    batch = secrets.token_hex(4)
    names = [f"bench-{batch}-{index}" for index in range(count)]
    try:
        if servers.sql_url is not None:
            return await insert_accounts(servers.sql_url, names, on_progress)
        return await _register(servers.api.base_url, names, on_progress)
    except MeetingPushError as error:
        raise BenchError(f"can not make accounts: {error.message}") from None


async def insert_accounts(
    url: str, names: list[str], on_progress: OnProgress = silent
) -> list[int]:
    """直接写进数据库：注册每个要几十毫秒的密码散列，一千个要半分钟。"""
    database = Database(url, _TIMEOUT_S)
    users = UserRepository(database)
    ids: list[int] = []
    try:
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            made = await asyncio.gather(
                *(users.create(name, _NO_PASSWORD, "user", now_ms()) for name in some)
            )
            ids += [user.id for user in made]
            on_progress(len(ids), len(names))
    finally:
        await database.dispose()
    return ids


async def _register(url: str, names: list[str], on_progress: OnProgress) -> list[int]:
    """够不着数据库（别人的服务器）：照契约注册。"""
    client, password = RestClient(url), secrets.token_urlsafe(16)
    todo, ids = iter(names), list[int]()

    async def some() -> None:
        for name in todo:
            ids.append((await client.register(name, password)).user_id)
            on_progress(len(ids), len(names))

    async with asyncio.TaskGroup() as group:
        for _ in range(_REGISTERING):
            group.create_task(some())
    return ids
