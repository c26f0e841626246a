"""python-socketio：AsyncServer 与 AsyncRedisManager，每个用户一个 room，uvicorn。"""

from __future__ import annotations

import jwt
import socketio
import uvicorn
from contract import options, user_of

OPTIONS = options()

sio = socketio.AsyncServer(
    async_mode="asgi", client_manager=socketio.AsyncRedisManager(OPTIONS.redis_url)
)
app = socketio.ASGIApp(sio)


@sio.event
async def connect(sid: str, environ: dict[str, object], auth: dict[str, str] | None) -> None:
    try:
        user_id = user_of((auth or {}).get("token", ""))
    except jwt.PyJWTError:
        raise socketio.exceptions.ConnectionRefusedError("invalid token") from None
    await sio.enter_room(sid, f"user:{user_id}")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=OPTIONS.port, log_level="warning")
