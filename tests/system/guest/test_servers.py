"""在别人的应用里、各种服务器下：不盖住它的路由，做得成事；关机时客人得到可重连的关闭码，什么也不丢。"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.people import Device, device
from tests.support.redis_server import RedisServer
from tests.system.guest.host import SERVERS, Host, person

pytestmark = pytest.mark.timeout(180)

#: 它们的 WebSocket 归 uvicorn：我们先送客（4000）。
_DRAINED: Final = ("uvicorn", "gunicorn", "gunicorn-preload")


async def closed(one: Device) -> int:
    """服务器关上的码；没有关闭帧就断了的是 1006，正常的 1000。"""
    try:
        await one.reader
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 1006
    return one.socket.close_code or 1006


@pytest.mark.parametrize("server", SERVERS)
async def test_f8_a_guest_leaves_the_host_alone_and_loses_nothing(
    server: str, tmp_path: Path, redis7_server: RedisServer, key_prefix: str
) -> None:
    ann = person(7)
    async with httpx.AsyncClient(trust_env=False) as client:
        with Host(server, tmp_path, redis7_server, key_prefix) as host:
            assert (await client.get(f"{host.url}/")).json() == "the shop"
            for path in ("/metrics", "/readyz", "/inbox", "/push/healthz", "/push/inbox"):
                answer = await client.get(f"{host.url}{path}")
                assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), path
            unknown = await client.get(f"{host.url}/nobody")
            assert unknown.status_code == 422
            assert unknown.json()["error"]["code"] == "unknown_recipients"
            async with device(host.ws_url(ann), ann) as phone:
                sent = (await client.post(f"{host.url}/orders/7")).json()
                assert (await phone.next_message())["message_id"] == sent
                host.child.send(signal.SIGTERM)
                code = await closed(phone)
                assert code == 4000 if server in _DRAINED else not 4500 <= code <= 4999, code
        with Host(server, tmp_path, redis7_server, key_prefix) as host:
            async with device(host.ws_url(ann), ann) as phone:
                assert (await phone.next_message())["message_id"] == sent
                await phone.ack(sent)


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_several_workers_are_one_system(
    server: str, tmp_path: Path, redis7_server: RedisServer, key_prefix: str, database_url: str
) -> None:
    ann = person(7)
    with Host(
        server, tmp_path, redis7_server, key_prefix, workers=2, database_url=database_url
    ) as host:
        async with device(host.ws_url(ann), ann) as phone, httpx.AsyncClient() as client:
            sent = [(await client.post(f"{host.url}/orders/7")).json() for _ in range(5)]
            got = [(await phone.next_message())["message_id"] for _ in sent]
            assert sorted(got) == sorted(sent)
