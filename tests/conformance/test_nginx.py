"""D7：docs/tuning.md 里的 nginx 配置照抄就能用：REST、用户连接（Origin 带端口）、会议。"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.support.eventually import wait_until
from tests.support.people import Person, api_of, register
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

NGINX: Final = Path("/usr/sbin/nginx")
PAGE: Final = Path(__file__).parents[2] / "docs" / "tuning.md"

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason="no nginx")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, redis7_server: RedisServer) -> Iterator[str]:
    """nginx 的地址；后面是一个 api 与一个网关。"""
    folder = tmp_path_factory.mktemp("nginx")
    shared = {"redis_url": redis7_server.url, "settings": {"key_prefix": "nginx:"}}
    with (
        ServerProcess(folder, role="api", **shared) as api,  # type: ignore[arg-type]
        ServerProcess(folder, role="gateway", **shared) as gateway,  # type: ignore[arg-type]
    ):
        port = free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(_configuration(port, api.port, gateway.port))
        ours = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
        nginx = subprocess.Popen([NGINX, "-p", folder, "-c", configuration, "-g", ours])
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(address), 20)
            yield address
        finally:
            nginx.terminate()
            nginx.wait(10)


def _configuration(port: int, api: int, gateway: int) -> str:
    """照抄，只换地址；日志写在自己的文件夹里。"""
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    text = found[1].replace("listen 8080;", f"listen 127.0.0.1:{port}; access_log off;")
    text = text.replace("worker_rlimit_nofile 200000", "worker_rlimit_nofile 1000")
    text = text.replace("worker_connections 100000", "worker_connections 500")
    text = re.sub(r"10\.0\.0\.1\d:8000", f"127.0.0.1:{gateway}", text)
    return re.sub(r"10\.0\.0\.2\d:8000", f"127.0.0.1:{api}", text)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.fixture
async def person(front: str) -> Person:
    return await register(front, "nina")


async def first_frame(url: str, person: Person, origin: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {person.token}"}
    async with connect(url, additional_headers=headers, origin=origin) as socket:  # type: ignore[arg-type]
        frame: dict[str, object] = msgspec.json.decode(await socket.recv())
        return frame


async def test_d7_a_page_of_the_same_origin_connects_through_it(front: str, person: Person) -> None:
    url = f"{front.replace('http', 'ws')}/ws/user/{person.user_id}/messages"
    assert (await first_frame(url, person, front))["type"] == "welcome"


async def test_d7_the_meeting_is_found_behind_it(front: str, person: Person) -> None:
    async with api_of(front, person) as api:
        answer = await api.post("/meetings", json={"title": "through nginx", "participant_ids": []})
    url = f"{front.replace('http', 'ws')}/ws/meeting/{answer.json()['meeting_id']}"
    assert (await first_frame(url, person, front))["type"] == "welcome"
