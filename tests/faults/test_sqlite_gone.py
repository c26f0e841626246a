"""SQLite 的文件在运行着的服务器底下没有了。"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.people import Person, api_of, register, send
from tests.support.server_process import ServerProcess

from .fleet import Log, becomes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


async def status_of_a_post(server: ServerProcess, person: Person) -> int:
    body = {"recipient_ids": [person.user_id], "title": "t", "content": "c"}
    async with api_of(server.base_url, person) as api:
        return (await api.post("/messages", json=body)).status_code


def delete(database: Path) -> None:
    for path in database.parent.glob("*.db*"):
        path.unlink()


def delete_wal(database: Path) -> None:
    database.with_name(database.name + "-wal").unlink()


def replace(database: Path) -> None:
    other = database.with_name("other")
    other.write_bytes(database.read_bytes())
    other.replace(database)


@pytest.mark.parametrize(
    ("harm", "cause"),
    [(delete, "file_gone"), (delete_wal, "file_gone"), (replace, "file_replaced")],
    ids=["deleted", "wal_deleted", "replaced"],
)
async def test_nothing_more_is_accepted(
    server: ServerProcess, harm: Callable[[Path], None], cause: str
) -> None:
    """E8：下一个 POST 就是 503，``/readyz`` 说得出原因，没有回溯。"""
    alice = await register(server.base_url, "alice")
    await send(server.base_url, alice, [alice])
    log = Log.of(server)
    harm(server.directory / "data" / "meeting-push.db")
    assert await status_of_a_post(server, alice) == 503
    becomes(server, 503, cause)
    assert "Traceback" not in log.text


async def test_it_is_well_again_when_the_file_is_back(server: ServerProcess) -> None:
    """E8"""
    alice = await register(server.base_url, "alice")
    database = server.directory / "data" / "meeting-push.db"
    away = database.rename(database.with_name("away"))
    assert await status_of_a_post(server, alice) == 503
    becomes(server, 503, "file_gone")
    away.rename(database)
    becomes(server, 200)
    assert await status_of_a_post(server, alice) == 202
