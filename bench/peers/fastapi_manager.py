"""人们自己写的：FastAPI 文档里的 ConnectionManager，一张字典，逐个 await。"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

import jwt
import uvicorn
from contract import (
    BROADCAST_CHANNEL,
    HEARTBEAT_ACK,
    USER_CHANNELS,
    WELCOME,
    options,
    user_of,
    user_of_channel,
)
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis import asyncio as redis

OPTIONS = options()


class ConnectionManager:
    def __init__(self) -> None:
        self.active: defaultdict[int, set[WebSocket]] = defaultdict(set)

    async def connect(self, user_id: int, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active[user_id].add(websocket)
        await websocket.send_text(WELCOME)

    def disconnect(self, user_id: int, websocket: WebSocket) -> None:
        self.active[user_id].discard(websocket)
        if not self.active[user_id]:
            del self.active[user_id]

    async def send_to_user(self, user_id: int, text: str) -> None:
        for websocket in list(self.active.get(user_id, ())):
            await websocket.send_text(text)

    async def broadcast(self, text: str) -> None:
        for websockets in list(self.active.values()):
            for websocket in list(websockets):
                await websocket.send_text(text)


manager = ConnectionManager()


async def listen() -> None:
    client = redis.from_url(OPTIONS.redis_url, decode_responses=True)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    await pubsub.psubscribe(USER_CHANNELS)
    await pubsub.subscribe(BROADCAST_CHANNEL)
    async for message in pubsub.listen():
        try:
            if message["type"] == "pmessage":
                await manager.send_to_user(user_of_channel(message["channel"]), message["data"])
            else:
                await manager.broadcast(message["data"])
        except (WebSocketDisconnect, RuntimeError):
            continue


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(listen())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/user/{user_id}/messages")
async def messages(websocket: WebSocket, user_id: int) -> None:
    try:
        token = websocket.headers.get("authorization", "").removeprefix("Bearer ")
        allowed = user_of(token) == user_id
    except jwt.PyJWTError:
        allowed = False
    if not allowed:
        await websocket.close(4500)
        return
    await manager.connect(user_id, websocket)
    try:
        while True:
            await websocket.receive_text()
            await websocket.send_text(HEARTBEAT_ACK)
    except WebSocketDisconnect:
        manager.disconnect(user_id, websocket)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=OPTIONS.port, log_level="warning")
