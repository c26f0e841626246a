"""一致性测试的接头，Python 的 SDK 这一边：一行一个命令，一行一件事（README.md）。"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from meeting_push import ClientOptions, ConnectionState, PushClient, ReceivedMessage
from meeting_push.errors import MeetingPushError

FRAMES = ("withdrawn", "read_sync", "receipt", "presence", "notice", "gap", "resync")


def say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Adapter:
    def __init__(self) -> None:
        self._client: PushClient | None = None
        self._running: asyncio.Task[None] | None = None
        self._tokens: asyncio.Queue[str] = asyncio.Queue()
        self._failing: set[str] = set()

    async def obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "start":
                self._start(order)
            case "token":
                self._tokens.put_nowait(order["token"])
            case "ack":
                assert self._client is not None
                await self._client.ack(order["message_id"])
            case "stop":
                await self._stop()

    def _start(self, order: dict[str, Any]) -> None:
        seconds = {f"{name[:-3]}_s": ms / 1000 for name, ms in order.get("tuning", {}).items()}
        self._failing = set(order.get("fail_once", ()))
        self._tokens = asyncio.Queue()
        self._client = client = PushClient(
            order["url"],
            order["token"] if order.get("token") is not None else self._ask,
            user_id=order["user_id"],
            state_path=Path(order["store"]) if order.get("store") else None,
            options=ClientOptions(
                transport=order.get("transport", "auto"),
                ack=order.get("ack", "handled"),
                **seconds,
            ),
        )
        client.on_message(self._handle)
        client.on("state", _state)
        for name in FRAMES:
            client.on(name, _frame)
        self._running = asyncio.create_task(self._run(client))

    async def _run(self, client: PushClient) -> None:
        try:
            await client.run()
        except MeetingPushError:
            return  # 状态已经说了

    async def _stop(self) -> None:
        if self._client is not None and self._running is not None:
            await self._client.close()
            await self._running
        self._client = None
        say("stopped")

    async def _ask(self, fresh: bool = False) -> str:
        say("token", fresh=fresh)
        return await self._tokens.get()

    def _handle(self, message: ReceivedMessage) -> None:
        say("message", message_id=message.message_id, seq=message.seq, title=message.title)
        if message.message_id in self._failing:
            self._failing.discard(message.message_id)
            raise RuntimeError("as told")


def _state(state: ConnectionState) -> None:
    say(
        "state",
        name=state.name,
        transport=state.transport,
        code=state.code,
        reason=state.reason,
        final=state.final,
        retry_at=state.retry_at,
    )


def _frame(frame: msgspec.Struct) -> None:
    fields = msgspec.to_builtins(frame)
    say(str(fields.pop("type")), **fields)


async def main() -> None:
    adapter = Adapter()
    reader = asyncio.StreamReader(limit=2**22)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await adapter.obey(json.loads(line))


if __name__ == "__main__":
    asyncio.run(main())
