"""哪个槽：一个键的、一条命令的；槽归谁：问出来的，认得出不是 Cluster 的、不让进的。"""

from __future__ import annotations

from dataclasses import replace

import pytest

from meeting_push.errors import ConfigurationError, RedisUnavailableError
from meeting_push.redis.address import RedisAddress
from meeting_push.redis.link import Argument
from meeting_push.redis.slot_map import SLOTS, SlotMap, find_slots, slot_of, slot_of_command
from tests.support.clusters import ClusterSite
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)


def address_of(site: ClusterSite) -> RedisAddress:
    return RedisAddress(cluster=tuple(("127.0.0.1", one.port) for one in site.first_masters))


@pytest.mark.parametrize(
    "key", ["123456789", "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "{b", "钥匙", ""]
)
def test_a_key_is_where_redis_says_it_is(key: str, cluster_site: ClusterSite) -> None:
    told = cluster_site.ask(cluster_site.servers[0], "CLUSTER", "KEYSLOT", key)
    assert slot_of(key) == slot_of(key.encode()) == told


COMMANDS: list[tuple[Argument, ...]] = [
    ("GET", "{k}"),
    ("EVALSHA", "0" * 40, 2, "{k}a", "{k}b", "argument"),
    ("EVAL", b"return 1", 1, "{k}"),
    ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "BLOCK", 5, "STREAMS", "{k}1", "{k}2", ">", ">"),
    ("XGROUP", "CREATE", "{k}", "g", "0", "MKSTREAM"),
    ("XINFO", "CONSUMERS", "{k}", "g"),
    ("MEMORY", "USAGE", "{k}"),
    ("ZINTER", 2, "{k}", "{k}b"),
    ("SPUBLISH", "{k}", b"payload"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[str(one[0]) for one in COMMANDS])
def test_a_command_goes_where_its_first_key_is(command: tuple[Argument, ...]) -> None:
    assert slot_of_command(command) == slot_of("k")


@pytest.mark.parametrize(
    "command", [("PING",), ("INFO", "server"), ("EVAL", "return 1", 0), ("PUBLISH", "c", "p")]
)
def test_a_command_without_a_key_goes_anywhere(command: tuple[Argument, ...]) -> None:
    assert slot_of_command(command) is None


@pytest.mark.parametrize("which", ["cluster_site", "embedded_cluster_site"])
async def test_every_slot_has_its_master(which: str, request: pytest.FixtureRequest) -> None:
    site: ClusterSite = request.getfixturevalue(which)
    dead = ("127.0.0.1", free_port())
    address = replace(address_of(site), cluster=(dead, *address_of(site).cluster))
    told = await find_slots(address, address.cluster, 5)
    assert (told.covered, told.well) == (True, True)
    assert told.masters == sorted(("127.0.0.1", one.port) for one in site.servers)
    low, high, (_, port) = told.ranges[0]
    assert site.owner_of(low).port == site.owner_of(high).port == port


def test_a_node_that_names_no_host_is_the_one_that_was_asked() -> None:
    """``cluster-preferred-endpoint-type unknown-endpoint``、还没有人告诉它自己的地址。"""
    info = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"
    slots = [
        [0, 8191, [b"", 7000, b"id", []], [b"10.0.0.9", 7001, b"id"]],
        [8192, 16382, [None, 7002, b"id", []]],
        [16383, 16383, [b"?", 7003, b"id", [b"ip", b"10.0.0.3"]]],
    ]
    told = SlotMap.of("redis.example", info, slots)
    assert (told.epoch, told.well, told.covered) == (7, True, True)
    assert told.masters == [("10.0.0.3", 7003), ("redis.example", 7000), ("redis.example", 7002)]
    assert not SlotMap(told.ranges[1:]).covered
    assert sum(high - low + 1 for low, high, _ in told.ranges) == SLOTS


async def test_a_redis_that_is_no_cluster_is_said_plainly(redis7_server: RedisServer) -> None:
    node = ("127.0.0.1", redis7_server.port)
    with pytest.raises(ConfigurationError, match=r"is not a Redis Cluster .* use redis://"):
        await find_slots(RedisAddress(cluster=(node,)), [node], 5)


async def test_a_wrong_password_is_said_plainly(cluster_site: ClusterSite) -> None:
    address = replace(address_of(cluster_site), username="nobody", password="wrong")
    with pytest.raises(ConfigurationError, match="Redis refused") as caught:
        await find_slots(address, address.cluster, 5)
    assert "wrong" not in str(caught.value)


async def test_nobody_there_is_temporary() -> None:
    node = ("127.0.0.1", free_port())
    with pytest.raises(RedisUnavailableError, match="no node of"):
        await find_slots(RedisAddress(cluster=(node,)), [node], 1)
