"""围在哪里：平常的服务器；送事件给一个不响的接收者的；人归应用、id 是一段字的。

每一处都有自己的安静时，各算各的。
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

from ..server_under_test import ServerUnderTest, own_server
from .orders import ATTACKER_ADDRESS, FRIENDLY_ORIGIN, SENDS_BURST, SENDS_PER_S

Ground = Literal["", "webhooks", "application"]
#: 不在平常的服务器上的坏法。
ELSEWHERE: Final[dict[str, Ground]] = {"WEBHOOKS": "webhooks", "IDS": "application"}
GROUNDS: Final[tuple[Ground, ...]] = ("", "webhooks", "application")
_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 — 规矩里的例子


@contextlib.asynccontextmanager
async def server_on(ground: Ground) -> AsyncIterator[ServerUnderTest]:
    """:raises BenchError: 起不来"""
    settings: dict[str, object] = {
        "trusted_proxies": f'["{ATTACKER_ADDRESS}/32"]',
        # 别的压测不限发送；这里量的正是默认的上限
        "sends_per_user_per_s": SENDS_PER_S,
        "sends_per_user_burst": SENDS_BURST,
        "allowed_origins": f'["{FRIENDLY_ORIGIN}"]',
    }
    async with contextlib.AsyncExitStack() as stack:
        if ground == "webhooks":
            settings["webhooks"] = await stack.enter_async_context(_silent_receiver())
        elif ground == "application":
            settings["identity"] = "application"
        yield stack.enter_context(own_server("native", **settings))


@contextlib.asynccontextmanager
async def _silent_receiver() -> AsyncIterator[Path]:
    """收下连接与正文，从不回答；返回说它的文件。"""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        writer.transport.abort()

    receiver = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = receiver.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="mp-siege-") as folder:
        file = Path(folder) / "webhooks.yaml"
        file.write_text(f"- {{url: 'http://127.0.0.1:{port}/hook', secret: {_SECRET}}}\n")
        yield file
    receiver.close()


def events_waiting(server: ServerUnderTest) -> int:
    """还没有送成的事件，死信也算。"""
    assert server.log is not None
    uri = f"file:{server.log.parent}/data/meeting-push.db?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        [count] = database.execute("SELECT coalesce(sum(event_count), 0) FROM mp_events_out")
    return int(count[0])


def most_events(attackers_s: float, honest: int) -> int:
    """攻击者的上限放进来的与老实人的；一条消息至多几个事件（收下、送达、读了）。"""
    return 3 * (int(SENDS_BURST + SENDS_PER_S * attackers_s) + honest)
