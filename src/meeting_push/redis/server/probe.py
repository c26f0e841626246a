"""Redis 此刻答得上来吗：等它启动的人用。"""

from __future__ import annotations

from ...errors import RedisUnavailableError
from ..connection.address import RedisAddress
from ..connection.lean import LeanConnection


async def answers(url: str, *, timeout_s: float, name: str) -> bool:
    probe = LeanConnection(RedisAddress.parse(url), timeout_s=timeout_s, name=name)
    try:
        await probe.connect()  # 以 PING 结尾，载入 AOF 期间不算
    except RedisUnavailableError:
        return False
    finally:
        await probe.close()
    return True
