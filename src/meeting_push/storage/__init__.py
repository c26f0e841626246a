"""记录：SQL 数据库里的表、迁移与仓库；只有这里导入 SQLAlchemy。"""
