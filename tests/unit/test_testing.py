"""应用自己的测试用的夹具，与一个进程里的几个 ``MeetingPush``、几个事件循环。"""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from meeting_push import Draft, MeetingPush, Sender, Settings
from tests.support.eventually import eventually

pytest_plugins = ["meeting_push.testing"]

SHOP = Sender(1, "shop")


async def arrives(push: MeetingPush, text: str) -> None:
    """发一条，等它进信箱。"""
    draft = Draft(recipient_ids=(2,), title="t", content=text)
    [sent] = await push.messages.send_batch(SHOP, [draft])

    async def waiting() -> bool:
        box = await push.mailbox.get_offline_messages(2)
        return sent.message_id in {one.tail.message_id for one in box}

    await eventually(waiting)


async def test_the_fixture_is_a_whole_system(push_settings: Settings) -> None:
    push = MeetingPush(push_settings)
    async with push.lifespan(FastAPI()):
        await arrives(push, "hello")


@pytest.mark.parametrize("time", [1, 2])
async def test_each_test_begins_with_nothing(push_settings: Settings, time: int) -> None:
    push = MeetingPush(push_settings)
    async with push.lifespan(FastAPI()):
        assert await push.mailbox.get_offline_messages(2) == []
        await arrives(push, "mine alone")


def test_one_application_starts_again_on_another_event_loop(push_settings: Settings) -> None:
    """``with TestClient(app)`` 在每个测试里都是一个新的事件循环。"""
    push = MeetingPush(push_settings)
    app = FastAPI(lifespan=push.lifespan)
    app.include_router(push.router, prefix="/push")
    app.include_router(push.probes)
    nodes = set[str]()

    async def serve(text: str) -> None:
        transport = httpx.ASGITransport(app)
        async with (
            push.lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client,
        ):
            nodes.add(push.node_id)

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await eventually(ready, 20)
            assert (await client.get("/push/api/v1/messages")).status_code == 401
            await arrives(push, text)

    for text in ("once", "twice", "three times"):
        asyncio.run(serve(text))
    assert len(nodes) == 3


async def test_two_in_one_process_are_strangers(
    push_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other")
    shop = MeetingPush(push_settings)
    bank = MeetingPush(
        push_settings.changed(
            key_prefix="bank:", data_dir=folder, database_url=f"sqlite:///{folder}/bank.db"
        )
    )
    app = FastAPI()
    app.include_router(shop.router, prefix="/shop")
    app.include_router(bank.router, prefix="/bank")
    async with shop.lifespan(app), bank.lifespan(app):
        await arrives(shop, "an order")
        assert await bank.mailbox.get_offline_messages(2) == []
        await arrives(bank, "a statement")
        assert len(await shop.mailbox.get_offline_messages(2)) == 1
