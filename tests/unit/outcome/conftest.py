"""这一间的测试在每一种 Redis 上各跑一遍，断言不变。"""

from __future__ import annotations

from tests.support.engines import engines as engines
from tests.support.engines import redis_server as redis_server
