"""两个应用共用一个 Redis：各有前缀就互不相识；忘了前缀，后来的进不来，先来的一样不少。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from meeting_push import MeetingPush, load_settings
from meeting_push.errors import ConfigurationError, MeetingPushError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.keys import Keys
from meeting_push.redis.probe import check_rights
from tests.support.accounts import sign
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.people import Device, Person, device, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET

ANN = Person(7, "ann", sign(7, "ann"))
ADMIN = Person(9, "root", sign(9, "root", "admin"))


async def user_of(redis: RedisServer, prefix: str) -> str:
    """只许碰这个前缀的 Redis 用户，照启动时权限不够所说的那一行；返回以它连接的地址。"""
    name = prefix.removesuffix(":")
    admin: Any
    async with Redis.from_url(redis.url) as admin:
        await admin.execute_command("ACL", "SETUSER", name, "on", ">pw", "+@all")
        lame = redis.url.replace("://", f"://{name}:pw@")
        with pytest.raises(ConfigurationError) as caught:
            await check_rights(RedisAddress.parse(lame), Keys(prefix), "probe", 5)
        advice = str(caught.value).partition("e.g. ")[2].split()
        assert advice[:3] == ["ACL", "SETUSER", name]
        await admin.execute_command(*advice)
    return lame


def application(folder: Path, redis_url: str, url: str | None, prefix: str) -> MeetingPush:
    """``url`` 不给就是它自己的 SQLite。"""
    folder.mkdir()
    given = {
        "redis_url": redis_url,
        "key_prefix": prefix,
        "database_url": url or f"sqlite:///{folder}/shop.db",
        "data_dir": folder,
        "jwt_secret": TEST_JWT_SECRET,
        "start_patience_s": 1,
        "drain_window_s": 0,
    }
    return MeetingPush(load_settings(**given))


@contextlib.asynccontextmanager
async def phone_of(address: str) -> AsyncIterator[Device]:
    async with device(f"ws://{address}/ws/user/{ANN.user_id}/messages", ANN) as phone:
        yield phone


async def ask(address: str, method: str, path: str, **given: object) -> httpx.Response:
    async with httpx.AsyncClient(headers=ADMIN.headers, trust_env=False) as api:
        return await api.request(method, f"http://{address}/api/v1{path}", **given)  # type: ignore[arg-type]


async def test_with_prefixes_they_are_strangers(
    private_redis_server: RedisServer, database_url: str, tmp_path: Path
) -> None:
    """同样的 id、密钥：消息、广播、在线、吊销，都不过去；各有一个只够碰自己的键的 Redis 用户。"""
    first, second = [await user_of(private_redis_server, name) for name in ("shop:", "bank:")]
    shop = application(tmp_path / "shop", first, database_url, "shop:")
    bank = application(tmp_path / "bank", second, None, "bank:")
    async with hosted(shop) as here, hosted(bank) as there, phone_of(here) as ours:
        online = await ask(there, "GET", f"/presence/users/{ANN.user_id}")
        assert online.json()["online"] is False
        async with phone_of(there) as theirs:
            one = await send(f"http://{here}", ADMIN, [ANN])
            body = {"title": "all", "content": "c"}
            everybody = (await ask(here, "POST", "/messages/broadcast", json=body)).json()
            got = {(await ours.next_message())["message_id"] for _ in range(2)}
            assert got == {one, everybody["message_id"]}
            revoked = await ask(here, "POST", f"/users/{ANN.user_id}/revoke")
            assert revoked.status_code == 204
            await eventually(ours.reader.done, 10)
            own = await send(f"http://{there}", ADMIN, [ANN])
            assert (await theirs.next_message())["message_id"] == own
            assert not theirs.has_message()
    async with Redis.from_url(private_redis_server.url, decode_responses=True) as redis:
        names = [key async for key in redis.scan_iter()]
    assert names
    # 广播日志的附属键与日志同槽：前缀在它的花括号里
    ours_only = ("shop:", "bank:", "{shop:", "{bank:")
    assert [name for name in names if not name.startswith(ours_only)] == []


async def test_without_a_prefix_the_second_is_not_let_in_and_the_first_does_not_notice(
    private_redis_server: RedisServer, database_url: str, tmp_path: Path
) -> None:
    shop = application(tmp_path / "shop", private_redis_server.url, database_url, "")
    bank = application(tmp_path / "bank", private_redis_server.url, None, "")
    async with hosted(shop) as here, phone_of(here) as ours:
        with pytest.raises(MeetingPushError, match="this Redis serves another database"):
            await bank.start()
        one = await send(f"http://{here}", ADMIN, [ANN])
        assert (await ours.next_message())["message_id"] == one
        await ours.ack(one)
        await ours.round_trip()
        assert not ours.reader.done()
