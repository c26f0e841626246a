"""运维的门：Alertmanager 的 webhook、操作页的数与现场、页面与静态文件、看人与追一条消息。

三种人都来：没有令牌的、普通人、管理员自己的机器（设错了的 Alertmanager，忘了关的五十个标签页）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, Final

import msgspec

from ..assault import PATIENCE_S, Assault

_WEBHOOK: Final = "/api/v1/alerts/alertmanager"
_ALERTS: Final = 1_000  # 一个正文至多这么多条，不到 1 MB
_TABS: Final = 50
#: 一个标签页一轮问的。
_ASKED_BY_A_TAB: Final = (
    *("/api/v1/stats", "/api/v1/stats/history", "/api/v1/alerts?limit=200", "/api/v1/queues"),
    *("/api/v1/logs/events?window_s=604800", "/api/v1/mailboxes?limit=200", "/metrics"),
    *("/api/v1/deliveries/failures/causes", "/api/v1/queues/dead-letter?limit=200", "/readyz"),
)
_PAGES: Final = (
    *("/ops", "/docs", "/inbox", "/openapi.json", "/static/ops/ops.js", "/static/theme.css"),
    *("/static/vendor/swagger-ui-bundle.js", "/static/vendor/swagger-ui.css", "/static/nowhere"),
    *(
        "/metrics",
        "/readyz",
        "/static/vendor/uPlot.esm.js",
        "/static/../../etc/passwd",
        "/static/%2e%2e/%00",
    ),
)
_LARGE_FILE: Final = "/static/vendor/swagger-ui-bundle.js"
_GZIP: Final = "Accept-Encoding: gzip"


async def alert_floods(assault: Assault) -> None:
    """Alertmanager 把一千条说了又说，触发、恢复交替；别人的也来，还有坏的正文。"""
    states = cycle(("firing", "resolved"))
    same = {state: _webhook(state, 0) for state in ("firing", "resolved")}
    bad = cycle((b"[" * 500_000, b'{"alerts":[' + b"{}," * 300_000 + b"{}]}", _webhook("odd", 0)))
    await asyncio.gather(
        _posting(assault, 2, _WEBHOOK, lambda: same[next(states)], as_admin=True),
        _posting(assault, 1, _WEBHOOK, lambda: next(bad), as_admin=True),
        assault.keep_posting(2, _WEBHOOK, lambda: same["firing"]),
        assault.keep_posting(2, _WEBHOOK, lambda: same["firing"], token=False),
        assault.keep_posting(2, "/api/v1/alerts/test", lambda: b'{"channel":"log"}'),
    )


async def forgotten_tabs(assault: Assault) -> None:
    """五十个标签页一起问历史、要现场；普通人也要。"""
    await asyncio.gather(
        assault.forever(_TABS, _asking(assault, _ASKED_BY_A_TAB, as_admin=True)),
        assault.forever(4, _asking(assault, _ASKED_BY_A_TAB)),
        assault.forever(_TABS, _watching(assault, as_admin=True, every_s=1)),
        assault.forever(4, _watching(assault, as_admin=False, every_s=1)),
        assault.forever(4, _watching(assault, as_admin=True, every_s=0)),
    )


async def page_floods(assault: Assault) -> None:
    """页面与静态文件：收 gzip 的与不收的，HEAD，胡写的 If-None-Match，要了最大的却不读。"""
    junk = "If-None-Match: " + ", ".join(f'W/"{number:032x}"' for number in range(180))

    async def headers_only() -> None:
        async with assault.call() as call:
            await call.send(assault.head("HEAD", _LARGE_FILE, "Connection: close", token=False))
            await call.until_closed()

    async def unread() -> None:
        async with assault.call() as call:
            async with asyncio.timeout(PATIENCE_S):
                await call.send(assault.head("GET", _LARGE_FILE, token=False) * 60)
            await asyncio.sleep(PATIENCE_S)

    await asyncio.gather(
        assault.forever(8, _asking(assault, _PAGES, _GZIP)),
        assault.forever(8, _asking(assault, _PAGES)),
        assault.forever(8, _asking(assault, _PAGES, junk)),
        assault.forever(8, headers_only),
        assault.forever(60, unread),
    )


async def lookups_of_nothing(assault: Assault) -> None:
    """看没有的人，追没有的消息，处理没有的告警：谁来都一样。"""

    def paths() -> Sequence[str]:
        number = assault.random.randrange(1, 2**53)
        ulid = f"{number:026d}"
        return (
            f"/api/v1/users/{number}/inspect",
            f"/api/v1/messages/{ulid}/trace?limit=100",
            f"/api/v1/messages/{ulid}/trace?recipient={number}",
            f"/api/v1/alerts/{ulid}",
            "/api/v1/stats/history?figures=nothing&since=9007199254740991&until=0",
            "/api/v1/stats/history?since=0&until=9007199254740991",
            "/api/v1/mailboxes?order=slowest&limit=200",
        )

    def note_body() -> bytes:
        return b'{"text":"%s"}' % (b"x" * 4_000)

    note = f"/api/v1/alerts/{'0' * 26}/notes"
    await asyncio.gather(
        assault.forever(16, _asking(assault, paths, as_admin=True)),
        assault.forever(8, _asking(assault, paths)),
        assault.forever(8, _asking(assault, paths, with_token=False)),
        _posting(assault, 4, note, note_body, as_admin=True),
    )


def _webhook(status: str, batch: int) -> bytes:
    alerts = [
        {
            "status": status,
            "labels": {"alertname": f"siege-{number}", "severity": "warning", "batch": str(batch)},
            "annotations": {"summary": "x" * 500, "value": "1", "runbook_url": "http://h/" * 20},
            "startsAt": datetime.now(UTC).isoformat(),
        }
        for number in range(_ALERTS)
    ]
    return msgspec.json.encode({"version": "4", "alerts": alerts})


def _token(assault: Assault, as_admin: bool) -> str:
    role = "admin" if as_admin else "user"
    return assault.town.target.token(assault.town.attacker_id, role)


async def _posting(
    assault: Assault, workers: int, path: str, body: Callable[[], bytes], *, as_admin: bool
) -> None:
    signed = f"Authorization: Bearer {_token(assault, as_admin)}"
    await assault.keep_posting(workers, path, body, token=False, lines=lambda: (signed,))


def _asking(
    assault: Assault,
    paths: Sequence[str] | Callable[[], Sequence[str]],
    *lines: str,
    as_admin: bool = False,
    with_token: bool = True,
) -> Callable[[], Awaitable[None]]:
    """一条连接上一个接一个地问；答了就问下一个。"""
    signed = [f"Authorization: Bearer {_token(assault, as_admin)}"] if with_token else []

    async def once() -> None:
        async with assault.call() as call:
            while True:
                for path in paths() if callable(paths) else paths:
                    await call.send(assault.head("GET", path, *signed, *lines, token=False))
                    if not await call.answer():
                        return

    return once


def _watching(assault: Assault, *, as_admin: bool, every_s: int) -> Callable[[], Awaitable[None]]:
    """要现场，要了又要；说了什么数一数。"""
    frame: dict[str, Any] = {"type": "ops_watch", "every_s": every_s}

    async def once() -> None:
        path = f"/ws/user/{assault.town.attacker_id}/messages"
        async with assault.socket(path, _token(assault, as_admin)) as socket:
            await assault.say(socket, msgspec.json.encode(frame).decode())
            async for text in socket:
                heard = msgspec.json.decode(text)
                assault.answers[f"frame {heard['type']} {heard.get('code', '')}".strip()] += 1
                if heard["type"] == "error":
                    await assault.say(socket, msgspec.json.encode(frame).decode())
                    await asyncio.sleep(0)

    return once
