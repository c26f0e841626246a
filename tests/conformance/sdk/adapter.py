"""接头这一边的另一头：一个 SDK 的进程，测试对它下命令、听它说的（README.md）。"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable
from typing import Any, Final

#: 一件事至多等这么久：慢的机器、被暂停的进程。
PATIENCE_S: Final = 60.0
Event = dict[str, Any]
#: 缩小了的等待：没有一处要真的等满。
QUICK: Final = {"backoff_base_ms": 5, "backoff_cap_ms": 10, "ack_delay_ms": 1}


class AdapterProcess:
    """活得比一个测试久：起一次，测试一个接一个地用。"""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._heard: Callable[[Event], object] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def hear(self, heard: Callable[[Event], object] | None) -> None:
        self._heard = heard

    def say(self, order: Event) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._heard is not None:
                self._heard(json.loads(line))

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Sdk:
    """一个测试里的一个客户端；``way`` 是它走的路。"""

    def __init__(self, process: AdapterProcess, name: str, way: str) -> None:
        self.name = name
        self.way = way
        self._process = process
        self._news: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        process.hear(lambda event: loop.call_soon_threadsafe(self._news.put_nowait, event))
        #: 至今说过的，按次序。
        self.events: list[Event] = []

    def start(
        self, url: str, *, user_id: int = 1, token: str | None = "opaque", **options: Any
    ) -> None:
        """``token`` 为 None：每次都来问（``token`` 事件），由 ``give`` 回答。"""
        tuning = QUICK | options.pop("tuning", {})
        order = {"do": "start", "url": url, "user_id": user_id, "token": token, "tuning": tuning}
        self._process.say({"transport": self.way, **order, **options})

    def give(self, token: str) -> None:
        self._process.say({"do": "token", "token": token})

    def ack(self, message_id: str) -> None:
        self._process.say({"do": "ack", "message_id": message_id})

    async def stop(self) -> None:
        self._process.say({"do": "stop"})
        await self.until("stopped")

    async def until(self, event_name: str, /, **fields: Any) -> Event:
        """等到说了这样一件事；途中的都记下。"""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = await self._news.get()
                self.events.append(event)
                wanted = {"event": event_name, **fields}
                if wanted.items() <= event.items():
                    return event

    def messages(self) -> list[str]:
        """至今交给应用的消息的 id。"""
        return [one["message_id"] for one in self.events if one["event"] == "message"]

    def forget(self) -> None:
        self._process.hear(None)
