"""事件流在什么都没有为它配置的 nginx 后面：缺省的缓冲、HTTP/1.0、压缩；升级被挡着。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.child import Child
from tests.support.event_streams import event_stream
from tests.support.eventually import wait_until
from tests.support.people import Person, api_of, register, send
from tests.support.ports import free_port
from tests.support.proxies import PROXIES
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess, answers

NGINX = PROXIES[0].binary
pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="no nginx"),
    pytest.mark.timeout(120),
]

#: 没有 Upgrade、没有 proxy_http_version、没有 proxy_buffering：一个不知道我们是谁的 nginx。
PLAIN = """
events {{ worker_connections 200; }}
http {{
  gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
  proxy_buffers 8 64k;
  server {{
    listen 127.0.0.1:{port}; access_log off;
    location /sse/ {{ proxy_pass http://127.0.0.1:{streams}; }}
    location / {{ proxy_pass http://127.0.0.1:{api}; }}
  }}
}}
"""


@pytest.fixture(scope="module", params=["all", "gateway"])
def address(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis7_server: RedisServer,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("plain-nginx")
    settings = {"key_prefix": f"{folder.name}:", "trusted_proxies": '["127.0.0.1/32"]'}
    with (
        ServerProcess(folder, redis_url=redis7_server.url, settings=settings) as api,
        ServerProcess(
            folder, role=request.param, redis_url=redis7_server.url, settings=settings
        ) as streams,
    ):
        port, file = free_port(), folder / "nginx.conf"
        file.write_text(PLAIN.format(port=port, streams=streams.port, api=api.port))
        ours = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
        assert NGINX is not None
        child = Child([NGINX, "-p", str(folder), "-c", str(file), "-g", ours], folder / "nginx.log")
        try:
            found = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(found), 20)
            yield found
        finally:
            child.stop()


@pytest.fixture
async def person(address: str) -> Person:
    return await register(address, f"u{address.rpartition(':')[2]}")


def url_of(address: str, who: Person) -> str:
    return f"{address}/sse/user/{who.user_id}/messages"


async def test_the_first_bytes_and_every_event_come_at_once(address: str, person: Person) -> None:
    async with event_stream(url_of(address, person), person.headers) as stream:
        assert (await stream.frame())["type"] == "welcome"
        for _ in range(3):
            sent = await send(address, person, [person])
            [message] = await stream.messages(1)
            assert message["message_id"] == sent
            async with api_of(address, person) as api:
                assert (await api.post("/acks", json={"message_ids": [sent]})).status_code == 200


async def test_a_refusal_comes_through(address: str, person: Person) -> None:
    headers = {"authorization": "Bearer nonsense"}
    async with event_stream(url_of(address, person), headers) as stream:
        body = await stream.response.aread()
    assert stream.response.status_code == 401
    assert b"invalid_token" in body


async def test_a_hundred_messages_are_all_there_once_over_many_streams(
    address: str, person: Person
) -> None:
    """一遍遍断开，以最后的 id 接着：一条不少。"""
    seen, last = set[str](), ""
    sending = asyncio.create_task(_send_all(address, person, 100))
    while len(seen) < 100:
        headers = {**person.headers, **({"Last-Event-ID": last} if last else {})}
        async with event_stream(url_of(address, person), headers) as stream:
            for _ in range(20):
                event = await stream.read()
                last = event.id or last
                data = event.data
                found = data["messages"] if data["type"] == "batch" else [data]
                ids = [each["message_id"] for each in found if "message_id" in each]
                seen.update(ids)
                if len(seen) == 100:
                    break
                if ids:
                    async with api_of(address, person) as api:
                        await api.post("/acks", json={"message_ids": ids})
    assert seen == set(await sending)


async def _send_all(address: str, person: Person, count: int) -> list[str]:
    return [await send(address, person, [person]) for _ in range(count)]
