"""翻遍一切：SQL 的每张表、每一列，Redis 的每个键、每个值（正文解开）里有没有这几样。"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from redis import Redis
from sqlalchemy import Connection, inspect, text

from meeting_push.errors import MalformedEnvelopeError
from meeting_push.redis.bodies import decode_body
from meeting_push.storage.database import Database


def _pattern(needles: Iterable[str]) -> re.Pattern[str]:
    """数字不许是别的数字的一段。"""
    return re.compile(
        "|".join(rf"(?<!\d){one}(?!\d)" if one.isdigit() else re.escape(one) for one in needles)
    )


async def in_sql(database: Database, *needles: str) -> list[str]:
    """``表.列: 值``；真的有哪些表由数据库自己说。"""
    found: list[str] = []
    wanted = _pattern(needles)

    def look(connection: Connection) -> None:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f'SELECT * FROM "{table}"')).mappings():
                for column, value in row.items():
                    shown = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    if wanted.search(shown):
                        found.append(f"{table}.{column}: {shown[:200]}")

    async with database.connect() as connection:
        await connection.run_sync(look)
    return found


def in_redis(redis: Redis, *needles: str, prefix: str = "") -> list[str]:
    """``键: 值``；``redis`` 不解码；只看 ``prefix`` 开头的键。"""
    wanted = _pattern(needles)
    found: list[str] = []
    for key in redis.scan_iter(match=f"{prefix}*", count=1_000):
        name = key.decode("latin-1")
        for value in _values(redis, key):
            shown = f"{name}: {_readable(value)}"
            if wanted.search(shown):
                found.append(shown[:300])
    return found


def _values(redis: Any, key: bytes) -> Iterator[bytes]:
    kind = redis.type(key)
    if kind == b"string":
        yield redis.get(key) or b""
    elif kind == b"hash":
        yield from (part for pair in redis.hgetall(key).items() for part in pair)
    elif kind == b"zset":
        yield from redis.zrange(key, 0, -1)
    elif kind == b"set":
        yield from redis.smembers(key)
    elif kind == b"list":
        yield from redis.lrange(key, 0, -1)
    elif kind == b"stream":
        yield from (
            part for _, fields in redis.xrange(key) for pair in fields.items() for part in pair
        )
    else:
        assert kind == b"none", kind  # 刚没有了


def _readable(value: bytes) -> str:
    try:
        return decode_body(value).decode()
    except (MalformedEnvelopeError, UnicodeDecodeError):
        return value.decode("latin-1")
