"""FastAPI，自己的客户（UUID）与自己的 Alembic，我们住在同一个数据库里。

::

    cd examples/fastapi_alembic && alembic upgrade head
    MEETING_PUSH_DATABASE_URL=sqlite:///shop.db MEETING_PUSH_JWT_SECRET=… uvicorn shop:app

``alembic`` 只管 ``customers``、``orders``；``mp_…`` 归我们，启动时自己升级。
应用的数据库是环境变量 DATABASE_URL（默认 shop.db），PostgreSQL 的写 ``postgresql+asyncpg://…``。
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

from fastapi import FastAPI, HTTPException
from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from meeting_push import Draft, MeetingPush, Sender, load_settings

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db"))


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[uuid.UUID] = mapped_column(ForeignKey("customers.id"))
    what: Mapped[str]


class Customers:
    """我们问它：这些人在不在。"""

    async def existing_ids(self, user_ids: Sequence[object]) -> set[str]:
        ids = [uuid.UUID(str(each)) for each in user_ids]
        async with AsyncSession(engine) as session:
            found = await session.scalars(select(Customer.id).where(Customer.id.in_(ids)))
            return {str(each) for each in found}


push = MeetingPush(load_settings(), directory=Customers())
app = FastAPI(lifespan=push.lifespan, exception_handlers=push.error_handlers)
app.include_router(push.router, prefix="/push")


@app.post("/customers")
async def register(name: str) -> uuid.UUID:
    customer = Customer(id=uuid.uuid4(), name=name)
    async with AsyncSession(engine) as session, session.begin():
        session.add(customer)
        return customer.id


@app.post("/orders")
async def order(customer: uuid.UUID, what: str) -> str:
    if not what:
        raise HTTPException(422, "what?")
    draft = Draft(recipient_ids=(str(customer),), title="Order received", content=what)
    async with AsyncSession(engine) as session, session.begin():
        sent = await push.messages.send_in_transaction(session, Sender(None, "shop"), draft)
        session.add(Order(customer=customer, what=what))
    push.messages.notify_committed()
    return sent.message_id
