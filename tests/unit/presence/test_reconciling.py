"""对账：内存与 Redis 不一致时，以持有连接的节点为准。"""

from __future__ import annotations

import pytest

from meeting_push.presence.online_status_service import OnlineStatusService
from meeting_push.redis.redis_service import RedisService
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually

from .nodes import ABSENT, info, node, stored


async def reconcile(one: OnlineStatusService) -> tuple[int, int]:
    """对一次账并写入；返回（重写几条、移走几条）。"""
    before = one.statistics()
    await one.reconciler.sweep()
    await one.flush()
    after = one.statistics()
    return (
        after.reconciled_written - before.reconciled_written,
        after.reconciled_removed - before.reconciled_removed,
    )


async def test_an_entry_that_no_socket_has_is_removed(redis: RedisService) -> None:
    here = await node(redis)
    await here.set_user_online(1, info("a"))
    await here.set_user_online(2, info("b"))
    here.ledger._live.pop((2, "b"))  # 忘了它，如同一个错
    here.ledger._written.discard((2, "b"))
    assert await reconcile(here) == (0, 1)
    assert await stored(redis, 2) == ABSENT
    assert await stored(redis, 1) == (1, 1, True, True)


@pytest.mark.parametrize("lost", ["hash", "member", "index", "everything"])
async def test_a_socket_that_redis_lost_is_written_again(redis: RedisService, lost: str) -> None:
    here, keys = await node(redis), redis.keys
    await here.set_user_online(1, info("a"))
    names = {
        "hash": [keys.online_user(1)],
        "member": [keys.online_users_set],
        "index": [keys.node_connections(here._node.id)],
    }
    doomed = names.get(lost) or [name for each in names.values() for name in each]
    await redis.lean.unlink(doomed)
    assert await reconcile(here) == (1, 0)
    assert await stored(redis, 1) == (1, 1, True, True)
    assert await reconcile(here) == (0, 0)


async def test_nothing_to_reconcile_changes_nothing(redis: RedisService) -> None:
    here, there = await node(redis), await node(redis)
    for user_id in range(1, 700):
        here.ledger.connection_opened(user_id, info(f"h{user_id}"))
        there.ledger.connection_opened(user_id, info(f"t{user_id}"))
    await here.flush()
    await there.flush()
    assert await reconcile(here) == (0, 0)
    assert here.statistics().swept == 699


async def test_a_change_not_yet_written_is_not_a_difference(redis: RedisService) -> None:
    here = await node(redis)
    await here.set_user_online(1, info("a"))
    here.ledger.connection_closed(1, "a")
    here.ledger.connection_opened(2, info("b"))
    await here.reconciler.sweep()
    statistics = here.statistics()
    assert (statistics.reconciled_written, statistics.reconciled_removed) == (0, 0)


async def test_the_sweep_runs_by_itself(redis: RedisService) -> None:
    here, supervisor = await node(redis, presence_sweep_s=0.02), Supervisor()
    await here.start(supervisor)
    await here.set_user_online(1, info("a"))
    await redis.lean.execute("DEL", redis.keys.online_user(1))
    await eventually(lambda: here.is_user_online(1))
    await supervisor.stop()


async def test_a_lost_registration_makes_the_node_write_everything_again(
    redis: RedisService,
) -> None:
    here = await node(redis)
    assert await here._renew()
    await redis.lean.execute("DEL", redis.keys.nodes)
    assert not await here._renew()


async def test_removing_another_nodes_connection_clears_its_index(redis: RedisService) -> None:
    here, there = await node(redis), await node(redis)
    await here.set_user_online(1, info("a"))
    await there.set_user_offline(1, "a")
    assert await stored(redis, 1) == ABSENT
    assert await redis.lean.execute("EXISTS", redis.keys.node_connections(here._node.id)) == 0
    assert await reconcile(here) == (1, 0)
