"""Chromium 里一个空页面上的 ``WebSocket`` 与 ``EventSource``：没有我们的代码。"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.support.eventually import eventually
from tests.support.people import Person
from tests.system.web.browser import Page

from .programs import PATIENCE_S, Frame

_SOCKET = """
(([url, token]) => {
  globalThis.heard = [];
  const socket = (globalThis.line = new WebSocket(url, ["meeting-push.v1", `bearer.${token}`]));
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    heard.push(frame);
    const messages = frame.type === "batch" ? frame.messages : [frame];
    const ids = messages.filter(({ type }) => type === "new_message").map((one) => one.message_id);
    if (ids.length) socket.send(JSON.stringify({ type: "ack", message_ids: ids, request_id: 1 }));
  };
  socket.onclose = ({ code }) => heard.push({ type: "closed", code });
})
"""
_STREAM = """
(([url, acks, token]) => {
  globalThis.heard = [];
  const stream = (globalThis.line = new EventSource(url));
  stream.onmessage = ({ data, lastEventId }) => {
    const frame = JSON.parse(data);
    heard.push({ ...frame, lastEventId });
    const messages = frame.type === "batch" ? frame.messages : [frame];
    const ids = messages.filter(({ type }) => type === "new_message").map((one) => one.message_id);
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const body = JSON.stringify({ message_ids: ids });
    if (ids.length) fetch(acks, { method: "POST", headers, body });
  };
  stream.addEventListener("close", ({ data }) => {
    stream.close();
    heard.push({ type: "closed", ...JSON.parse(data) });
  });
  stream.onerror = () => heard.push({ type: "refused", again: stream.readyState !== 2 });
})
"""


class PageLine:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._seen = 0

    async def next_frame(self) -> Frame:
        place, self._seen = self._seen, self._seen + 1
        await eventually(lambda: self._page.evaluate(f"heard.length > {place}"), PATIENCE_S)
        frame: Frame = json.loads(await self._page.evaluate(f"JSON.stringify(heard[{place}])"))
        return frame


@contextlib.asynccontextmanager
async def socket_on(page: Page, url: str, token: str) -> AsyncIterator[PageLine]:
    yield await _opened(page, _SOCKET, [url, token])
    await page.evaluate("line.close(1000)")


@contextlib.asynccontextmanager
async def stream_on(page: Page, url: str, acks: str, token: str) -> AsyncIterator[PageLine]:
    yield await _opened(page, _STREAM, [url, acks, token])
    await page.evaluate("line.close()")


async def _opened(page: Page, script: str, arguments: list[Any]) -> PageLine:
    await page.evaluate(f"void {script}({json.dumps(arguments)})")
    return PageLine(page)


async def ticket(base_url: str, person: Person) -> str:
    """``EventSource`` 带不了头：一张只用一次的票据。"""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as api:
        answer = await api.post(f"{base_url}/api/v1/auth/ws-ticket", headers=person.headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])
