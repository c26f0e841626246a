"""收事件的一个进程：验签名，记进文件，随机地不成，同一份至多几次。``python 这个文件 端口 文件``。

记下的先于回答：记下而没有回答成的会再来一次，那也算收到过。
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from aiohttp import web

from tests.support.event_receivers import verified

#: 每种不成的各占这么多。
FAILS = 0.08
#: 同一份再多就成了：退避每次三倍，五次不成就要等几分钟。
MOST_FAILS = 2


async def take(request: web.Request) -> web.Response:
    body = await request.read()
    fails, batch = request.app[FAILED], request.headers["webhook-id"]
    fate = random.random() if fails[batch] < MOST_FAILS else 1.0
    fails[batch] += fate < 3 * FAILS
    if fate < FAILS:
        return web.Response(status=500, text="not now")
    events = verified(body, request.headers)
    with request.app[JOURNAL].open("a") as journal:
        journal.write(json.dumps(events) + "\n")
    if fate < 2 * FAILS:
        raise web.HTTPServiceUnavailable  # 收下了，却说没有
    if fate < 3 * FAILS:
        assert request.transport is not None
        request.transport.abort()
    return web.Response(status=204)


JOURNAL = web.AppKey("journal", Path)
FAILED: web.AppKey[Counter[str]] = web.AppKey("failed", Counter)


def main(port: str, journal: str) -> None:
    app = web.Application(client_max_size=1 << 24)
    app[JOURNAL], app[FAILED] = Path(journal), Counter()
    app.router.add_post("/in", take)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
