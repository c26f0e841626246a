"""应用自己的 Alembic；``include_object`` 让它看不见我们的表。"""

import asyncio

from alembic import context
from shop import Base, engine


def include_object(_object, name, type_, _reflected, _compare_to):
    return not (type_ == "table" and name.startswith("mp_"))


def run(connection):
    context.configure(
        connection=connection, target_metadata=Base.metadata, include_object=include_object
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate():
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(migrate())
