"""应用自己的 Alembic；``include_object`` 让它看不见我们的表。"""

from alembic import context
from shop import Base
from sqlalchemy import create_engine


def include_object(_object, name, type_, _reflected, _compare_to):
    return not (type_ == "table" and name.startswith("mp_"))


engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=Base.metadata, include_object=include_object
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
