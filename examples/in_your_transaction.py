"""在自己的 SQLAlchemy 事务里发消息：订单与通知一起提交，或一起消失。

::

    python examples/in_your_transaction.py

环境变量：DATABASE_URL（应用的数据库，消息也存在里面；默认 shop.db），MEETING_PUSH_DATA_DIR、
MEETING_PUSH_REDIS_URL（默认内嵌的 Redis）。
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from meeting_push import Draft, MeetingPush, Sender, load_settings

SHOP, BUYER = Sender(1, "shop"), 2


class OurCustomers:
    """应用自己的用户表。"""

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return {user_id for user_id in user_ids if user_id == BUYER}


async def order(push: MeetingPush, session: AsyncSession, what: str) -> str:
    """下单并通知；还没有提交。"""
    await session.execute(text("INSERT INTO orders (what) VALUES (:what)"), {"what": what})
    draft = Draft(recipient_ids=(BUYER,), title="Order received", content=what)
    return (await push.messages.send_in_transaction(session, SHOP, draft)).message_id


async def arrived(push: MeetingPush, message_id: str) -> str:
    """等到它进了买家的信箱，返回正文。"""
    for _ in range(200):
        for waiting in await push.mailbox.get_offline_messages(BUYER):
            if waiting.tail.message_id == message_id:
                return waiting.tail.content
        await asyncio.sleep(0.05)
    raise TimeoutError("the message did not arrive")


async def main() -> None:
    database = os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db")
    engine = create_async_engine(database)
    push = MeetingPush(load_settings(database_url=database), directory=OurCustomers())
    await push.start()
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS orders (what TEXT)"))
        async with AsyncSession(engine) as session:
            await order(push, session, "a bicycle")
            await session.rollback()  # 付款失败：订单与通知都没有了
        async with AsyncSession(engine) as session:
            message_id = await order(push, session, "a tent")
            await session.commit()
        push.messages.notify_committed()  # 不等下一次扫描
        sys.stdout.write(f"waiting for the buyer: {await arrived(push, message_id)}\n")
    finally:
        await push.stop()
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
