"""``Health``：一项没有检查过，既不算好，也不算坏。"""

from __future__ import annotations

from meeting_push.errors import UnavailableError
from meeting_push.monitoring.health import Health


async def test_a_part_nobody_has_checked_is_neither_well_nor_broken() -> None:
    """说坏，``redis_up`` 一启动就是 0，告警就响了一次没有发生的故障；``/readyz`` 仍不就绪。"""
    broken = False

    async def check() -> None:
        if broken:
            raise UnavailableError("away")

    health = Health(list)
    health.add("redis", check)
    assert (health.well("redis"), health.ready) == (None, False)
    await health.check_now()
    assert (health.well("redis"), health.ready) == (True, True)
    broken = True
    await health.check_now()
    assert (health.well("redis"), health.ready) == (False, False)
