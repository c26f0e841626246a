"""设备的规矩，从外面看：两个节点，真的套接字，被顶掉的得到 4505。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.eventually import eventually
from tests.support.people import Device, device
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node

pytestmark = pytest.mark.timeout(240)  # 每个测试起两个完整的节点

USER = 7


@contextlib.asynccontextmanager
async def two_nodes(
    tmp_path: Path, server: RedisServer, prefix: str, **settings: object
) -> AsyncIterator[tuple[Node, Node]]:
    async with (
        running_node(tmp_path, server.url, prefix, **settings) as one,
        running_node(tmp_path, server.url, prefix, **settings) as other,
    ):
        yield one, other


async def close_code(line: Device) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await line.reader
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


async def refused(node: Node) -> bool:
    """又来一台；是否以 4006 拒绝。"""
    try:
        async with device(node.ws_url(USER), node.person(USER)):
            return False
    except ConnectionClosed as closed:
        return closed.rcvd is not None and closed.rcvd.code == 4006


async def test_reject_is_4006_whatever_node(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    async with two_nodes(tmp_path, redis_server, key_prefix, max_devices_per_user=1) as (a, b):
        person = a.person(USER)
        async with device(a.ws_url(USER), person):
            assert await refused(b)
            assert a.push.manager.statistics().connections == 1

        async def room_again() -> bool:
            return not await refused(b)

        await eventually(room_again)


async def test_evict_oldest_is_4505_on_the_other_node(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {"max_devices_per_user": 1, "device_policy": "evict_oldest"}
    async with two_nodes(tmp_path, redis_server, key_prefix, **settings) as (a, b):
        person = a.person(USER)
        async with (
            device(a.ws_url(USER), person) as old,
            device(b.ws_url(USER), person) as new,
        ):
            assert await close_code(old) == 4505
            assert new.socket.close_code is None


async def test_the_same_device_is_4505_on_the_other_node(
    tmp_path: Path, redis_server: RedisServer, key_prefix: str
) -> None:
    settings = {"device_policy": "replace_same_device"}
    async with two_nodes(tmp_path, redis_server, key_prefix, **settings) as (a, b):
        person = a.person(USER)
        async with (
            device(a.ws_url(USER, "phone"), person) as old,
            device(a.ws_url(USER, "laptop"), person) as laptop,
            device(b.ws_url(USER, "phone"), person),
        ):
            assert await close_code(old) == 4505
            await laptop.round_trip()
