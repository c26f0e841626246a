"""进程内的节点，外面是真的 uvicorn 与我们的 HTTP。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from meeting_push import MeetingPush
from meeting_push.app import create_app
from meeting_push.http.doorway import Patience
from meeting_push.http.patient_http import patient_http
from tests.support.doors import door

from .edge_world import listening_socket


@contextlib.asynccontextmanager
async def served(push: MeetingPush, ws: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(
        create_app(push),
        http=patient_http(Patience.of(push.settings.edge), door()),
        ws=ws,
        loop="none",
        lifespan="off",
        log_config=None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    sock = listening_socket()
    await server.startup(sockets=[sock])
    try:
        yield sock.getsockname()[1]
    finally:
        for listener in server.servers:
            listener.close()
