"""不用 SDK 的设备：断了就照契约带着位置再连，每条都确认。"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from tests.support.people import Person


class RawDevice:
    """``closes`` 是每次断开的码；``received`` 里每个 id 至少一次。"""

    def __init__(self, ws_url: str, person: Person, device_id: str) -> None:
        self._url = f"{ws_url}?device_id={device_id}"
        self._person = person
        self._position = ""
        self._window_s = 0.5
        self.received: Counter[str] = Counter()
        self.closes: list[int | None] = []
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """永不返回。"""
        while True:
            try:
                await self._connection()
            except (OSError, WebSocketException):  # 监听口关闭时还在排队的：没轮到升级就断了
                self.closes.append(None)
            await asyncio.sleep(random.uniform(0, self._window_s))

    async def _connection(self) -> None:
        protocols = [Subprotocol("meeting-push.v1"), Subprotocol(f"bearer.{self._person.token}")]
        async with connect(self._url + self._position, subprotocols=protocols, proxy=None) as line:
            try:
                async for text in line:
                    frame = json.loads(text)
                    self._take(frame)
                    await self._ack(line, frame)
            except ConnectionClosed:
                pass
            self.connected.clear()
            self.closes.append(line.close_code)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "welcome":
                self._epoch = frame["epoch"]
                self.connected.set()
            case "notice":
                self._window_s = frame["reconnect_after_ms"] / 1000
        for message in _messages(frame):
            self.received[message["message_id"]] += 1
            self._position = f"&epoch={self._epoch}&last_seq={message['seq']}"

    async def _ack(self, line: Any, frame: dict[str, Any]) -> None:
        if ids := [message["message_id"] for message in _messages(frame)]:
            await line.send(json.dumps({"type": "ack", "message_ids": ids}))


def _messages(frame: dict[str, Any]) -> list[dict[str, Any]]:
    if frame["type"] == "batch":
        return list(frame["messages"])
    return [frame] if frame["type"] == "new_message" else []
