"""账号：换密码、停用、恢复，经 REST 与命令行，在两个节点上。"""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import PASSWORD
from tests.support.server_process import ServerProcess
from tests.system.test_cli import meeting_push

from .visitors import Lines, login, post, rest_code

REVOKED = 4502
NEW = "another long password"


def somebody() -> str:
    return f"u{uuid4().hex[:12]}"


async def user_command(house: House, *words: str, stdin: str = "") -> str:
    """``meeting-push user …``，在别的进程里，没有 Redis。"""
    done = await asyncio.to_thread(
        meeting_push,
        *("user", *words),
        cwd=house.directory,
        stdin=stdin,
        env={"MEETING_PUSH_DATABASE_URL": house.database_url},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_the_other_devices_are_closed_and_this_one_goes_on(
    house: House, lines: Lines
) -> None:
    name = somebody()
    mine, other = await login(house.near, name), await login(house.far, name)
    here, there = (
        await lines.open(house.far, mine.person),
        await lines.open(house.far, other.person),
    )
    body = {"old": PASSWORD, "new": NEW}
    answer = await post(house.near, "/auth/password", mine.person.token, body)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await there.closed() == REVOKED
    assert (await here.ask(type="heartbeat", timestamp=1))["type"] == "heartbeat_ack"
    assert await rest_code(house.near, mine.person.token) == "ok"
    assert await rest_code(house.near, other.person.token) == "revoked"
    credentials = {"username": name, "password": NEW}
    assert (await post(house.far, "/auth/login", body=credentials)).status_code == 200


async def test_what_is_wrong_is_said(house: House) -> None:
    token = (await login(house.near, somebody())).person.token
    wrong = await post(house.near, "/auth/password", token, {"old": "no such", "new": NEW})
    weak = await post(house.near, "/auth/password", token, {"old": PASSWORD, "new": "12345678"})
    nobody = await post(house.near, "/auth/password", "", {"old": PASSWORD, "new": NEW})
    shapeless = await post(house.near, "/auth/password", token, {"old": PASSWORD})
    assert code_of(wrong) == (401, "bad_credentials")
    assert code_of(weak) == (422, "weak_password")
    assert code_of(nobody) == (401, "unauthenticated")
    assert code_of(shapeless) == (422, "invalid_input")
    assert PASSWORD not in shapeless.text


async def test_disabled_by_the_command_line_he_is_out_everywhere(
    house: House, lines: Lines
) -> None:
    name = somebody()
    alice, bob = await login(house.near, name), await login(house.far, somebody())
    here, there = (
        await lines.open(house.near, alice.person),
        await lines.open(house.far, alice.person),
    )
    letter = {"recipient_ids": [alice.person.user_id], "title": "t", "content": ""}
    for node in (house.near, house.far):  # 两个节点都记得他在
        assert (await post(node, "/messages", bob.person.token, letter)).status_code == 202
    assert await user_command(house, "disable", name) == str(alice.person.user_id)
    assert set(await asyncio.gather(here.closed(), there.closed())) == {REVOKED}
    for node in (house.near, house.far):

        async def is_unknown(node: ServerProcess = node) -> bool:
            answer = await post(node, "/messages", bob.person.token, letter)
            return answer.status_code == 422 and code_of(answer)[1] == "unknown_recipients"

        await eventually(is_unknown)
    credentials = {"username": name, "password": PASSWORD}
    assert code_of(await post(house.far, "/auth/login", body=credentials)) == (
        401,
        "account_disabled",
    )
    refused = await post(house.far, "/auth/refresh", body={"refresh_token": alice.refresh_token})
    assert code_of(refused) == (401, "revoked")


async def test_enabled_again_he_signs_in_and_finds_his_messages(house: House) -> None:
    name = somebody()
    alice, bob = await login(house.near, name), await login(house.near, somebody())
    letter = {"recipient_ids": [alice.person.user_id], "title": "kept", "content": ""}
    await post(house.near, "/messages", bob.person.token, letter)
    await user_command(house, "disable", str(alice.person.user_id))
    await user_command(house, "enable", name)
    again = (await login(house.far, name)).person
    async with httpx.AsyncClient(trust_env=False) as client:
        inbox = await client.get(
            f"{house.far.base_url}/api/v1/messages",
            headers={"authorization": f"Bearer {again.token}"},
        )
    assert [item["title"] for item in inbox.json()["items"]] == ["kept"]
    assert (await post(house.near, "/messages", bob.person.token, letter)).status_code == 202


async def test_a_password_set_for_him_ends_all_his_sessions(house: House, lines: Lines) -> None:
    name = somebody()
    alice = await login(house.near, name)
    line = await lines.open(house.far, alice.person)
    await user_command(house, "passwd", name, stdin=f"{NEW}\n")
    assert await line.closed() == REVOKED
    credentials = {"username": name, "password": NEW}
    assert (await post(house.near, "/auth/login", body=credentials)).status_code == 200
