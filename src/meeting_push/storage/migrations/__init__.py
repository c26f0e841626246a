"""Alembic 的迁移；随包发布，由 ``Database.migrate`` 执行。"""
