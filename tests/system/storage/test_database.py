"""DLV-1：提交了的，kill -9 也丢不掉。"""

from __future__ import annotations

import asyncio
import subprocess
import sys

from sqlalchemy import func, select

from meeting_push.storage.database import Database
from meeting_push.storage.tables import idempotency_keys

_CRASH = """
import asyncio, os, signal, sys
from sqlalchemy import insert
from meeting_push.storage.database import Database
from meeting_push.storage.tables import idempotency_keys as keys

async def main(url):
    database = Database(url)
    for key in range(5):
        async with database.transaction() as connection:
            row = dict(sender_id=1, key=str(key), request_hash=b"h", response="", created_at=0)
            await connection.execute(insert(keys), row)
    async with database.transaction() as connection:
        await connection.execute(insert(keys), row | {"key": "uncommitted"})
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


async def test_dlv_1_kill_9_loses_nothing_that_was_committed(
    database: Database, database_url: str
) -> None:
    command = [sys.executable, "-c", _CRASH, database_url]
    killed = await asyncio.to_thread(subprocess.run, command, check=False)
    assert killed.returncode == -9
    async with database.connect() as connection:
        kept = await connection.scalar(select(func.count()).select_from(idempotency_keys))
    assert kept == 5
