"""``serve --workers N``：抓任何一个进程都是整个 serve；换了进程，计数不倒退。"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meeting_push.monitoring.snapshots import ServeFolder
from tests.support.eventually import eventually
from tests.support.people import Person, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

#: 内核把连接随便分给两个进程：这么多条都落在同一个上，两千次里不到一次。
SCRAPERS = 12
Seen = dict[str, float]


@contextlib.asynccontextmanager
async def scrapers(server: ServerProcess) -> AsyncIterator[list[httpx.AsyncClient]]:
    """几条保持着的连接，各留在分给它的那个进程上。"""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=5)
            )
            for _ in range(SCRAPERS)
        ]


async def scrape(client: httpx.AsyncClient) -> Seen:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def one(seen: Seen, name: str) -> float:
    return seen[f"meeting_push_{name}[]"]


def counters(seen: Seen) -> Seen:
    ends = ("_total[", "_count[", "_bucket[", "_sum[")
    return {name: value for name, value in seen.items() if any(end in name for end in ends)}


async def everybody_connected(
    stack: contextlib.AsyncExitStack, server: ServerProcess, people: list[Person]
) -> None:
    """每人三台设备：两个进程都有。"""
    for who in people:
        for number in range(3):
            url = server.ws_url(who.user_id, device_id=f"d{number}")
            phone = await stack.enter_async_context(device(url, who))
            await phone.round_trip()


@pytest.mark.parametrize(
    ("role", "engine"), [("all", "redis7_server"), ("gateway", "embedded_redis_server")]
)
async def test_every_scraper_sees_the_whole_serve(
    tmp_path: Path, request: pytest.FixtureRequest, role: str, engine: str
) -> None:
    url = request.getfixturevalue(engine).url
    with (
        ServerProcess(tmp_path, redis_url=url) as api,
        ServerProcess(tmp_path, redis_url=url, role=role, workers=2) as server,
    ):
        people = [await register(api.base_url, name) for name in ("ann", "bob")]
        async with contextlib.AsyncExitStack() as stack, scrapers(server) as clients:
            await everybody_connected(stack, server, people)

            async def whole() -> bool:
                seen = [await scrape(client) for client in clients]
                return {
                    (one(each, "connections"), one(each, "connections_opened_total"))
                    for each in seen
                } == {(6, 6)}

            await eventually(whole, 5)
            assert one(await scrape(clients[0]), "processes") == 2


async def test_a_killed_worker_takes_no_count_with_it(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, workers=2) as server:
        ann, bob = [await register(server.base_url, name) for name in ("ann", "bob")]
        async with contextlib.AsyncExitStack() as stack, scrapers(server) as clients:
            await everybody_connected(stack, server, [ann, bob])
            await send(server.base_url, ann, [bob])
            highest: Seen = {}
            backwards: list[str] = []

            async def look() -> Seen:
                """问每一个；谁的计数比听到过的小，记下来。"""
                seen: Seen = {}
                for client in clients:
                    with contextlib.suppress(httpx.TransportError):
                        seen = await scrape(client)
                        now = counters(seen)
                        backwards.extend(n for n, v in highest.items() if now.get(n, -1) < v)
                        highest.update(now)
                return seen

            await look()
            for _ in range(2):
                worker = min(workers(server))
                os.kill(worker, signal.SIGKILL)

                async def replaced(dead: int = worker) -> bool:
                    seen = await look()
                    alive = workers(server)
                    return dead not in alive and bool(seen) and one(seen, "processes") == 2

                await eventually(replaced, 30)
            assert backwards == []
            assert one(highest, "connections_opened_total") >= 6


def workers(server: ServerProcess) -> set[int]:
    children = psutil.Process(server.pid).children()
    return {
        child.pid
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE and "meeting_push" in child.cmdline()
    }


async def test_it_answers_while_redis_is_away(
    tmp_path: Path, private_redis_server: RedisServer
) -> None:
    with ServerProcess(tmp_path, redis_url=private_redis_server.url, workers=2) as server:
        async with scrapers(server) as clients:
            await scrape(clients[0])
            private_redis_server.kill()
            for client in clients:
                assert one(await scrape(client), "processes") == 2


def test_prometheus_finds_nothing_to_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: prometheus)")
    with ServerProcess(tmp_path, workers=2) as server:
        text = httpx.get(f"{server.base_url}/metrics", trust_env=False).content
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def folder_of(server: ServerProcess) -> Path:
    [folder] = {
        Path(psutil.Process(pid).environ()["MEETING_PUSH_METRICS_FILE"]).parent
        for pid in workers(server)
    }
    return folder


def test_nothing_is_left_in_memory_after_it(tmp_path: Path) -> None:
    """请走的自己收拾；``kill -9`` 的，下一个替它收拾。"""
    with ServerProcess(tmp_path, workers=2) as server:
        folder = folder_of(server)
        assert folder.exists()
        server.terminate()
        assert not folder.exists()
        server.start()
        folder = folder_of(server)
        server.kill()
    assert folder.exists()
    ServeFolder().remove()
    assert not folder.exists()
