"""一个进程内的完整节点：真的 Redis 与 SQLite，picows 的端口，用户不必注册。"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from meeting_push import MeetingPush, load_settings
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.model import Accepted, Sender
from meeting_push.private_files import private_file
from meeting_push.router.ops import ops_endpoint
from meeting_push.settings import Settings
from meeting_push.storage.database import Database
from meeting_push.storage.naming import Wanted
from meeting_push.websocket.native import serve_native
from tests.support.doors import door
from tests.support.edge_world import listening_socket
from tests.support.node import Everybody
from tests.support.people import Person
from tests.support.server_process import TEST_JWT_SECRET


class Node:
    def __init__(self, push: MeetingPush, port: int) -> None:
        self.push = push
        self.port = port
        self._tokens = AccessTokens(push.settings.auth, TEST_JWT_SECRET)

    def person(self, user_id: int) -> Person:
        name = f"user-{user_id}"
        return Person(user_id, name, self._tokens.issue(user_id, "user", name, 3_600))

    def ws_url(self, user_id: int, device_id: str = "") -> str:
        query = f"?device_id={device_id}" if device_id else ""
        return f"ws://127.0.0.1:{self.port}/ws/user/{user_id}/messages{query}"

    async def send(self, user_id: int) -> Accepted:
        return await self.push.messages.send_message(Sender(1, "a"), user_id, "t", "c")

    async def failing(self) -> set[str]:
        """不就绪的部分。"""
        await self.push.health.check_now()
        return set((await self.push.health.report()).failing)


@contextlib.asynccontextmanager
async def running_node(
    data_dir: Path, redis_url: str, key_prefix: str, **settings: object
) -> AsyncIterator[Node]:
    loaded = load_settings(
        data_dir=data_dir,
        redis_url=redis_url,
        key_prefix=key_prefix,
        jwt_secret=TEST_JWT_SECRET,
        **settings,
    )
    await _lay_tables(loaded)
    push = MeetingPush(loaded, directory=Everybody())
    await push.start()
    sock = listening_socket()
    server = await serve_native(
        push.manager,
        sock=sock,
        ops=ops_endpoint(push.health, push.metrics),
        doorway=door(),
    )
    try:
        yield Node(push, sock.getsockname()[1])
    finally:
        await push.drain()
        server.close()
        await push.stop()


#: 迁移好的空库，一个进程造一次：迁移一遍要 0.2 秒，几百个测试各要一个库。
_EMPTY: dict[Wanted, bytes] = {}


async def _lay_tables(settings: Settings) -> None:
    """``data_dir`` 里还没有库，就放一个迁移好的。"""
    file = settings.process.data_dir / "meeting-push.db"
    if settings.database.url or file.exists():
        return
    wanted = Wanted(settings.database.table_prefix, settings.database.schema_name)
    if wanted not in _EMPTY:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "empty.db"
            database = Database.of(f"sqlite:///{made}", settings.database)
            await database.migrate()
            await database.dispose()
            _EMPTY[wanted] = made.read_bytes()
    private_file(file)
    file.write_bytes(_EMPTY[wanted])
