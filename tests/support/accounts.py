"""账号：直接写进库里（argon2 与被测的事无关，忙时还让着别人），令牌像认证服务那样签。"""

from __future__ import annotations

import functools
import time
from typing import Final
from uuid import uuid4

import jwt
from argon2 import PasswordHasher
from sqlalchemy import insert, select

from meeting_push.storage.database import Database
from meeting_push.storage.tables import users

from .people import PASSWORD, Person
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


@functools.cache
def _hash() -> str:
    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)


async def resident(database_url: str, name: str) -> Person:
    """叫这个名字的人，没有就添上，密码是 ``PASSWORD``；表须已建好。"""
    database = Database(database_url)
    key = {"username_key": name}
    try:
        async with database.transaction() as connection:
            find = select(users.c.id).filter_by(**key)
            user_id = await connection.scalar(find)
            if user_id is None:
                row: dict[str, object] = {
                    **key,
                    "username": name,
                    "password_hash": _hash(),
                    "role": "user",
                }
                row["created_at"] = time.time_ns() // 1_000_000
                await connection.execute(insert(users), row)
                user_id = await connection.scalar(find)
    finally:
        await database.dispose()
    assert user_id is not None
    return Person(user_id, name, sign(user_id, name))


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
