"""像 ``gunicorn --preload``：先造好应用，再 fork 出几个工人，各开各的端口（由测试启动）。

::

    python forked_workers.py <工人数> <redis_url> <data_dir> <key_prefix>

每个工人就绪时写一行 ``<pid> <node_id> <port>``；收到 SIGTERM 从容退出。
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from meeting_push import MeetingPush, load_settings
from meeting_push.router.ops import ops_endpoint
from meeting_push.websocket.native import serve_native
from tests.support.doors import door
from tests.support.edge_world import listening_socket
from tests.support.server_process import TEST_JWT_SECRET


async def work(push: MeetingPush) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await push.start()
    sock = listening_socket()
    server = await serve_native(
        push.manager,
        sock=sock,
        ops=ops_endpoint(push.health, push.metrics),
        doorway=door(),
    )
    print(os.getpid(), push.node_id, sock.getsockname()[1], flush=True)
    await stop.wait()
    await push.drain()
    server.close()
    await push.stop()


def main(workers: int, redis_url: str, data_dir: Path, key_prefix: str) -> None:
    push = MeetingPush(
        load_settings(
            redis_url=redis_url,
            data_dir=data_dir,
            key_prefix=key_prefix,
            jwt_secret=TEST_JWT_SECRET,
            drain_window_s=0.1,
            presence_flush_ms=10,
        )
    )
    for _ in range(workers):
        if os.fork() == 0:
            asyncio.run(work(push))
            os._exit(0)
    for _ in range(workers):
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
