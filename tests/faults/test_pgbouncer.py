"""B7：PgBouncer 按事务复用连接。"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meeting_push.storage.database import Database
from tests.support.people import api_of, device, register, send
from tests.support.pgbouncer import find_pgbouncer, running_pgbouncer
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess


@pytest.fixture
def pooled_url(postgres_server: PostgresServer) -> Iterator[str]:
    if find_pgbouncer() is None:
        pytest.skip("no pgbouncer on this machine")
    # 不在 pytest 的目录里：那里只有 root 进得去
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent) / "pgbouncer"
        directory.mkdir()
        direct = postgres_server.create_database()
        name = direct.partition("?")[0].rpartition("/")[2]
        with running_pgbouncer(postgres_server, directory) as port:
            yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
        postgres_server.drop_database(direct)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "options", ["", "?statement_cache_size=0", "?prepared_statement_cache_size=0"]
)
async def test_it_works_through_the_pool(
    tmp_path: Path, private_redis_server: RedisServer, pooled_url: str, options: str
) -> None:
    """B7：迁移、登录、一百条并发的消息、收件箱；没有 500，没有循环死掉，没有回溯。"""
    url = pooled_url + options
    server = ServerProcess(tmp_path, redis_url=private_redis_server.url, database_url=url)
    with contextlib.ExitStack() as stack:
        stack.callback(server.start(60).stop)
        alice = await register(server.base_url, "alice")
        async with device(server.ws_url(alice.user_id), alice) as phone:
            sent = await asyncio.gather(
                *(send(server.base_url, alice, [alice], title=str(n)) for n in range(100))
            )
            got = {(await phone.next_message())["message_id"] for _ in sent}
            assert got == set(sent)
            await phone.ack(*got)
        async with api_of(server.base_url, alice) as api:
            assert len((await api.get("/messages?limit=50")).json()["items"]) == 50
        assert server.is_ready()
        assert "Traceback" not in server.output
        assert "loop_died" not in server.output


async def test_without_a_pool_statements_are_kept(postgres_server: PostgresServer) -> None:
    """B7：直接连着的不因此变慢。"""
    url = postgres_server.create_database()
    database = Database(url)
    await database.meet_pooler()
    assert not database.behind_a_pooler
    await database.dispose()
    postgres_server.drop_database(url)
