"""前一版（0.1）与这一版：它的库照开，它的客户端照连，它的帧照懂；这一版的客户端连得上它的服务器。"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml

from tests.conformance.test_asyncapi import conversation
from tests.conformance.test_asyncapi import server as server
from tests.support import asyncapi
from tests.support.accounts import sign
from tests.support.child import Child
from tests.support.empty_environment import EmptyEnvironment
from tests.support.eventually import wait_until
from tests.support.people import PASSWORD, Person, api_of, device, register, send
from tests.support.previous_version import PreviousVersion
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

ROOT: Final = Path(__file__).parents[2]
HOUR_MS: Final = 3_600_000


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> PreviousVersion:
    return PreviousVersion(tmp_path_factory.mktemp("previous"))


class Listener:
    """``examples/listen.py``，哪一版的都行；位置存在 ``folder`` 里，停了再起接着用。"""

    def __init__(self, folder: Path, person: Person) -> None:
        self._folder, self._person = folder, person
        self._count = 0

    @contextlib.contextmanager
    def of(
        self, url: str, environment: EmptyEnvironment | None = None, source: Path = ROOT
    ) -> Iterator[Child]:
        """``environment`` 不给就是这一版。"""
        self._count += 1
        python = sys.executable if environment is None else environment.python
        login = {"URL": url, "USERNAME": self._person.name, "PASSWORD": PASSWORD}
        child = Child(
            [python, str(source / "examples" / "listen.py")],
            self._folder / f"listen-{self._count}.log",
            env=_variables(environment) | login,
            cwd=self._folder,
        )
        try:
            yield child
        finally:
            child.stop(signal.SIGINT)  # 它存好自己的位置
            print(child.output)


def _variables(environment: EmptyEnvironment | None) -> dict[str, str]:
    if environment is not None:
        return environment.variables
    return {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}


def says(child: Child, title: str) -> bool:
    return any(f": {title} — " in line for line in child.output.splitlines())


def titles(child: Child) -> list[str]:
    lines = [line for line in child.output.splitlines() if " — " in line]
    return [line.split(": ", 1)[1].split(" — ")[0] for line in lines]


async def inbox(url: str, person: Person) -> set[str]:
    async with api_of(url, person) as api:
        items = (await api.get("/messages", params={"limit": 100})).json()["items"]
    return {one["title"] for one in items}


async def broadcast(url: str, admin: Person, title: str) -> None:
    async with api_of(url, admin) as api:
        answer = await api.post("/messages/broadcast", json={"title": title, "content": "c"})
    assert answer.status_code == 202, answer.text


async def test_what_0_1_wrote_is_all_there_and_nobody_gets_anything_twice(
    old: PreviousVersion,
    private_redis_server: RedisServer,
    empty_database_url: str,
    tmp_path: Path,
) -> None:
    """服务器换了新的，同一个库、同一个 Redis：记录、信箱、账号、令牌、客户端的位置都还在。"""
    redis_url, database_url = private_redis_server.url, empty_database_url
    before = ServerProcess(
        tmp_path,
        redis_url=redis_url,
        database_url=database_url,
        python=old.environment.python,
    )
    admin = Person(99, "root", sign(99, "root", "admin"))
    with before:
        url = before.base_url
        alice, bob = [await register(url, name) for name in ("alice", "bob")]
        listener = Listener(tmp_path, bob)
        with listener.of(url, old.environment, old.source) as listening:
            first = await send(url, alice, [bob], title="one")
            await asyncio.to_thread(wait_until, lambda: says(listening, "one"), 60)
            await asyncio.to_thread(wait_until, lambda: delivered(url, alice, first), 60)
        waiting = await send(url, alice, [bob], title="two", priority=9, data={"k": [1]})
        later = await send(url, alice, [bob], title="later", deliver_at=_now() + HOUR_MS)
        await broadcast(url, admin, "all")
        await asyncio.to_thread(before.terminate)
    with ServerProcess(tmp_path, redis_url=redis_url, database_url=database_url) as after:
        url = after.base_url
        assert "tables_have_no_prefix" in after.output
        assert {"one", "two"} <= await inbox(url, bob)
        assert (await register(url, "bob")).user_id == bob.user_id
        assert delivered(url, alice, first)
        assert not delivered(url, alice, waiting)
        with listener.of(url, old.environment, old.source) as listening:
            for title in ("two", "all"):
                await asyncio.to_thread(wait_until, lambda t=title: says(listening, t), 60)
            await asyncio.to_thread(wait_until, lambda: delivered(url, alice, waiting), 60)
            assert sorted(titles(listening)) == ["all", "two"]
        with listener.of(url) as listening:
            three = await send(url, alice, [bob], title="three")
            await asyncio.to_thread(wait_until, lambda: delivered(url, alice, three), 60)
            assert titles(listening) == ["three"]
        async with api_of(url, alice) as api:
            assert (await api.delete(f"/messages/{later}")).status_code < 300


def delivered(url: str, sender: Person, message_id: str) -> bool:
    path = f"{url}/api/v1/messages/{message_id}/delivery"
    answer = httpx.get(path, headers=sender.headers, trust_env=False, timeout=20)
    return bool(answer.json()["delivered"] == 1)


def _now() -> int:
    return time.time_ns() // 1_000_000


async def test_its_client_talks_to_this_server_through_a_withdrawal(
    old: PreviousVersion, redis7_server: RedisServer, key_prefix: str, tmp_path: Path
) -> None:
    """它不认得的帧（``withdrawn``）略过；它发、它收、它确认，结果都记下。"""
    settings = {"key_prefix": key_prefix}
    with ServerProcess(tmp_path, redis_url=redis7_server.url, settings=settings) as now:
        await talks(old.environment, old.source, now, tmp_path, withdraw=True)


async def test_this_client_talks_to_its_server(
    old: PreviousVersion, redis7_server: RedisServer, key_prefix: str, tmp_path: Path
) -> None:
    before = ServerProcess(
        tmp_path,
        redis_url=redis7_server.url,
        settings={"key_prefix": key_prefix},
        python=old.environment.python,
    )
    with before:
        await talks(None, ROOT, before, tmp_path, withdraw=False)


async def talks(
    environment: EmptyEnvironment | None,
    source: Path,
    to: ServerProcess,
    folder: Path,
    *,
    withdraw: bool,
) -> None:
    """一版的两个例子对着另一版的服务器：一边收，一边发，等到送达；再起也不重。"""
    url = to.base_url
    alice, bob = [await register(url, name) for name in ("alice", "bob")]
    listener = Listener(folder, bob)
    with listener.of(url, environment, source) as listening:
        if withdraw:
            async with device(to.ws_url(bob.user_id), bob) as other:
                gone = await send(url, alice, [bob], title="gone")
                assert (await other.next_message())["message_id"] == gone
                async with api_of(url, alice) as api:
                    assert (await api.delete(f"/messages/{gone}")).status_code == 204
        python = sys.executable if environment is None else environment.python
        login = {"URL": url, "USERNAME": "alice", "PASSWORD": PASSWORD}
        sending = Child(
            [python, str(source / "examples" / "send_and_track.py"), str(bob.user_id), "hi", "c"],
            folder / "send.log",
            env=_variables(environment) | login,
            cwd=folder,
        )
        try:
            await asyncio.to_thread(wait_until, lambda: "delivered 1" in sending.output, 90)
        finally:
            sending.stop()
            print(sending.output)
        assert says(listening, "hi")
    with listener.of(url, environment, source) as listening:
        again = await send(url, alice, [bob], title="again")
        await asyncio.to_thread(wait_until, lambda: delivered(url, alice, again), 60)
        assert titles(listening) == ["again"]


async def test_what_0_1_knew_of_a_frame_still_holds(
    old: PreviousVersion, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """同一种帧：当时写下的字段都在，类型不变；多出来的它不看。"""
    heard = await conversation(server)
    described = yaml.safe_load((old.source / "docs" / "asyncapi.yaml").read_text())
    monkeypatch.setattr(asyncapi, "document", lambda: described)
    known = asyncapi.USER.messages("send").keys()
    assert {"welcome", "new_message", "batch", "receipt"} <= set(known)
    for frame in heard:
        if frame["type"] in known:
            asyncapi.USER.check_server_frame(frame)
    assert known <= {frame["type"] for frame in heard}
