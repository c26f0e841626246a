"""REST 的门：一个真实的服务器，三个人；说的都是 httpx 与裸套接字。"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.accounts import resident, sign
from tests.support.people import Person
from tests.support.server_process import ServerProcess

ADMIN_ID = 900_100


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("rest")) as process:
        yield process


@pytest.fixture
async def alice(server: ServerProcess) -> Person:
    return await resident(server.database_url, "alice")


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await resident(server.database_url, "bob")


@pytest.fixture
def admin() -> Person:
    return Person(ADMIN_ID, "admin", sign(ADMIN_ID, "admin", "admin"))
