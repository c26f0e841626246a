"""围城之前：老实人、攻击者、不在线的人与他信箱里的急信、一场会议。"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from meeting_push.client.rest_client import RestClient
from meeting_push.clock import now_ms
from meeting_push.errors import MeetingPushError
from meeting_push.model import ADMIN_ROLE
from meeting_push.storage.accounts import UserRepository
from meeting_push.storage.database import Database

from ..failure import BenchError
from ..server_under_test import ServerUnderTest
from .http_calls import HttpCalls
from .orders import HONEST_ADDRESS, Person, SiegePlan, Town

_CROWD: Final = 400
_TIMEOUT_S: Final = 30.0
#: 谁也登录不了：没有一个密码的散列是它。
_NO_PASSWORD: Final = "!"  # noqa: S105
PRECIOUS: Final = "the urgent one"


async def found_town(server: ServerUnderTest, plan: SiegePlan, *, accounts: bool = True) -> Town:
    """``accounts``：人归服务器；不然归应用，有令牌、有人发给他就有他。

    :raises BenchError: 服务器不让
    """
    town = await (_registered(server, plan) if accounts else _named(server, plan))
    meeting_id = await _meeting(town)
    await _precious(town)
    return msgspec.structs.replace(town, meeting_id=meeting_id)


async def _named(server: ServerUnderTest, plan: SiegePlan) -> Town:
    ids = range(1, plan.honest + 3 + _CROWD)
    attacker, absent, *crowd = ids[plan.honest :]
    honest = [_nameless(one) for one in ids[: plan.honest]]
    api = RestClient(server.target.base_url, server.target.token(1, ADMIN_ROLE))
    await api.send(list(ids), "hello", "from the application")
    return Town(
        target=server.target,
        honest=honest,
        attacker_id=attacker,
        absent=_nameless(absent),
        crowd_ids=crowd,
        meeting_id="",
    )


def _nameless(user_id: int) -> Person:
    return Person(user_id=user_id, name=str(user_id), password="")


async def _registered(server: ServerUnderTest, plan: SiegePlan) -> Town:
    target = server.target
    api = RestClient(target.base_url)
    batch = secrets.token_hex(3)
    try:
        people = [await _register(api, f"honest-{batch}-{n}") for n in range(plan.honest)]
        attacker = await _register(api, f"attacker-{batch}")
        absent = await _register(api, f"absent-{batch}")
    except MeetingPushError as error:
        raise BenchError(f"can not register: {error.message}") from None
    return Town(
        target=target,
        honest=people,
        attacker_id=attacker.user_id,
        absent=absent,
        crowd_ids=await _crowd(server, batch),
        meeting_id="",
    )


async def precious_kept(town: Town) -> bool:
    """A4：老实人的急信还在不在线的人的信箱里。"""
    calls = HttpCalls(town.target, HONEST_ADDRESS, {})
    path = f"/api/v1/users/{town.absent.user_id}/offline-messages?limit=200"
    try:
        return PRECIOUS.encode() in await calls.get(path, town.target.token(town.absent.user_id))
    finally:
        await calls.close()


async def _register(api: RestClient, name: str) -> Person:
    password = secrets.token_urlsafe(12)
    user = await api.register(name, password)
    return Person(user_id=user.user_id, name=name, password=password)


async def _crowd(server: ServerUnderTest, batch: str) -> list[int]:
    """从不上线的收件人，直接写进数据库：登录与否与他们无关。"""
    assert server.log is not None
    database = Database(f"sqlite:///{server.log.parent}/data/meeting-push.db", _TIMEOUT_S)
    users = UserRepository(database)
    try:
        return [
            (await users.create(f"crowd-{batch}-{n}", _NO_PASSWORD, "user", now_ms())).id
            for n in range(_CROWD)
        ]
    finally:
        await database.dispose()


async def _meeting(town: Town) -> str:
    calls = HttpCalls(town.target, HONEST_ADDRESS, {})
    organiser, *others = town.honest
    body = {
        "title": "siege",
        "participant_ids": [*(one.user_id for one in others), town.attacker_id],
    }
    answer = await calls.post("/api/v1/meetings", body, town.target.token(organiser.user_id))
    await calls.close()
    meeting_id: str = msgspec.json.decode(answer)["meeting_id"]
    return meeting_id


async def _precious(town: Town) -> None:
    api = RestClient(town.target.base_url, town.target.token(town.honest[0].user_id))
    await api.send([town.absent.user_id], PRECIOUS, "from a friend", priority=9)
