"""别人的应用：自己的 ``/``、``/healthz``，我们挂在 ``/push`` 下；由各种服务器启动。"""

from __future__ import annotations

import os

from fastapi import FastAPI

from meeting_push import Draft, MeetingPush, Sender, UnknownRecipientsError, load_settings

push = MeetingPush(load_settings())
app = FastAPI(lifespan=push.lifespan, exception_handlers=push.error_handlers)
app.include_router(push.router, prefix="/push")


@app.get("/")
async def home() -> str:
    return "the shop"


@app.get("/healthz")
async def healthz() -> int:
    return os.getpid()


@app.get("/nobody")
async def nobody() -> None:
    raise UnknownRecipientsError([7])


@app.post("/orders/{user_id}")
async def order(user_id: int) -> str:
    draft = Draft(recipient_ids=(user_id,), title="Order received", content="a tent")
    return (await push.messages.send_batch(Sender(1, "shop"), [draft]))[0].message_id
