"""Alembic 的入口：只在 ``Database.migrate`` 已打开的连接与事务里运行，没有离线模式。

Alembic 按路径加载本文件，所以这里用绝对导入。
"""

from __future__ import annotations

from alembic import context

from meeting_push.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
