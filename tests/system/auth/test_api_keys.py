"""API 密钥：命令行造与吊销；两秒之内每个进程都不认；哪一扇 WebSocket 的门都不认；日志里没有它。"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from meeting_push.client.rest_client import RestClient
from meeting_push.model import Sender
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.meetings import meeting_url
from tests.support.server_process import ServerProcess
from tests.system.test_cli import meeting_push
from tests.system.test_private_files import open_to_others

from .visitors import Lines, login, post

pytestmark = pytest.mark.timeout(300)
#: 承诺是 2 秒；机器忙的时候给客户端自己留一点。
IN_TIME_S = 2.5
INVALID = 4500


def key_command(house: House, *arguments: str) -> tuple[int, str, str]:
    done = meeting_push(
        "key", *arguments, "--database-url", house.database_url, cwd=house.directory
    )
    return done.returncode, done.stdout, done.stderr


async def made(house: House, name: str, scope: str) -> tuple[str, str]:
    """（号，密钥）。"""
    code, said, told = await asyncio.to_thread(key_command, house, "create", name, "--scope", scope)
    assert code == 0, told
    assert re.fullmatch(r"mpk_[\w-]{43}\n", said)
    assert said.strip() not in told
    found = re.match(r"key (\d+):", told)
    assert found, told
    return found[1], said.strip()


async def code_at(server: ServerProcess, key: str) -> str:
    answer = await post(server, "/messages", key, {"recipient_ids": [1], "title": "t"})
    return "ok" if answer.status_code == 202 else str(answer.json()["error"]["code"])


async def test_a_key_made_on_the_command_line_sends_at_once_on_every_node(
    house: House,
) -> None:
    bob = (await login(house.near, "bob-of-keys")).person
    _, key = await made(house, "billing", "send")
    message_ids = []
    for server in (house.near, house.far):
        async with RestClient(server.base_url, key) as rest:
            sent = await rest.send([bob.user_id], "t", "c")
            named = await rest.send([bob.user_id], "t", "c", sender=Sender(bob.user_id, "self"))
            message_ids += [sent.message_id, named.message_id]
    async with RestClient(house.far.base_url, bob.token) as rest:
        items = {one.message_id: one.sender for one in (await rest.inbox()).items}
    seen = [(items[one].id, items[one].name) for one in message_ids]
    assert seen == [(None, "billing"), (bob.user_id, "self")] * 2


async def test_a_device_gets_null_for_the_system(house: House, lines: Lines) -> None:
    bob = (await login(house.near, "bob-of-frames")).person
    line = await lines.open(house.far, bob)
    _, key = await made(house, "payroll", "send")
    body = {"recipient_ids": [bob.user_id], "title": "t", "content": "c", "message_type": "system"}
    assert (await post(house.near, "/messages", key, body)).status_code == 202
    frame = await line.read()
    while frame["type"] != "new_message":
        frame = await line.read()
    assert frame["sender"] == {"id": None, "name": "payroll"}


async def test_a_revoked_key_is_refused_by_every_process_within_two_seconds(
    house: House,
) -> None:
    bob = (await login(house.near, "bob-of-revoking")).person
    number, key = await made(house, "leaked", "send")
    body = {"recipient_ids": [bob.user_id], "title": "t", "content": "c"}
    for server in (house.near, house.far):
        assert (await post(server, "/messages", key, body)).status_code == 202
    code, said, told = await asyncio.to_thread(key_command, house, "revoke", number)
    since = time.monotonic()
    assert (code, said, told) == (0, "", "")

    async def refused(server: ServerProcess) -> float | None:
        known = (await post(server, "/messages", key, body)).status_code != 401
        return None if known else time.monotonic() - since

    for server in (house.near, house.far):
        took = await eventually(partial(refused, server))
        assert took is not None
        assert took < IN_TIME_S
    assert await code_at(house.near, key) == "bad_key"
    again = await asyncio.to_thread(key_command, house, "revoke", number)
    assert (again[0], again[1]) == (1, "")
    assert "no live key" in again[2]


async def test_no_websocket_takes_a_key(house: House, lines: Lines) -> None:
    bob = (await login(house.near, "bob-of-sockets")).person
    _, key = await made(house, "everything", "send,broadcast,read,presence,admin")
    assert await lines.code(house.near.ws_url(bob.user_id), key) == INVALID
    assert await lines.code(meeting_url(house.near, "0" * 26), key) == INVALID
    line = await lines.open(house.near, bob)
    await line.socket.send(json.dumps({"type": "refresh_token", "token": key}))
    assert await line.closed(5) == INVALID


async def test_a_key_stands_in_no_log_and_in_no_file(house: House) -> None:
    _, key = await made(house, "quiet", "send")
    bad = key[:-1]
    for server in (house.near, house.far):
        for given in (key, bad):
            await post(server, "/messages", given, {"recipient_ids": "x"})
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(f"{server.base_url}/api/v1/messages?token={given}")
        assert key[4:40] not in server.output
    listed = (await asyncio.to_thread(key_command, house, "list"))[1]
    assert key[4:] not in listed
    assert "\tquiet\tsend\t" in listed
    if house.database_url.startswith("sqlite"):
        found = [p for p in (house.directory / "data").rglob("*") if p.is_file()]
        assert not [p for p in found if key[4:].encode() in p.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("create", "x"), 2, "--scope"),
        (("create", "x", "--scope", "root"), 1, "send,broadcast,read,presence,admin"),
        (("create", "x", "--scope", ""), 1, "send,broadcast,read,presence,admin"),
        (("create", "a\nb", "--scope", "send"), 1, "printable"),
        (("create", "x" * 65, "--scope", "send"), 1, "64"),
        (("revoke", "999999"), 1, "no live key"),
        (("revoke", str(2**70)), 1, "no live key"),
        (("revoke", "mpk_x"), 2, "ID"),
    ],
)
def test_bad_use_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = meeting_push("key", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_command_writes_is_its_owners(tmp_path: Path) -> None:
    done = meeting_push("key", "create", "billing", "--scope", "send,read", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("meeting-push.db")
    assert open_to_others(file.parent) == []
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT name, scopes, length(digest) FROM mp_meeting_push_keys")
        assert rows.fetchall() == [("billing", "send,read", 32)]
    assert meeting_push("key", "list", cwd=tmp_path).stdout.startswith("1\tbilling\tsend,read\t")
