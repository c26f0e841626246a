"""一批账号：直接写进库里（几百次 argon2 与被测的事无关），令牌像认证服务那样签。"""

from __future__ import annotations

import time
from typing import Final
from uuid import uuid4

import jwt
from sqlalchemy import insert, select

from meeting_push.storage.database import Database
from meeting_push.storage.tables import users

from .people import Person
from .server_process import TEST_JWT_SECRET

TOKEN_LIFE_S: Final = 3600


def sign(user_id: int, name: str = "", role: str = "user", life_s: int = TOKEN_LIFE_S) -> str:
    """外人（PyJWT）签的一枚访问令牌；``life_s`` 为负则已过期。"""
    now = int(time.time())
    claims = {
        "sub": str(user_id),
        "name": name,
        "role": role,
        "aud": "meeting-push",
        "iat": now,
        "exp": now + life_s,
    }
    return jwt.encode(claims, TEST_JWT_SECRET, algorithm="HS256")


async def create_people(database_url: str, count: int, role: str = "user") -> list[Person]:
    """``count`` 个从没来过的用户；表须已建好（服务器启动过）。"""
    batch = uuid4().hex[:12]
    names = [f"{batch}-{number}" for number in range(count)]
    rows = [
        {
            "username": name,
            "username_key": name,
            "password_hash": "-",
            "role": role,
            "created_at": 1,
        }
        for name in names
    ]
    database = Database(database_url)
    try:
        async with database.transaction() as connection:
            await connection.execute(insert(users), rows)
            found = await connection.execute(
                select(users.c.id, users.c.username).where(users.c.username.in_(names))
            )
            ids = {name: user_id for user_id, name in found}
    finally:
        await database.dispose()
    return [Person(ids[name], name, sign(ids[name], name, role)) for name in names]
