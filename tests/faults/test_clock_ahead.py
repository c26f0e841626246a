"""E4：一个工人的钟快一小时（libfaketime）：活着的消息没有一条过期，照样送到。"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.eventually import eventually
from tests.support.people import delivery, device, register, send
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

QUICK = {"expiry_interval_s": 0.2, "relay_interval_s": 0.2, "relay_grace_s": 0.5}


@pytest.fixture
def library() -> Path:
    program = shutil.which("faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if program is None or not found:
        pytest.skip("no faketime here (apt install faketime)")
    return found[0]


@pytest.fixture
def api(tmp_path: Path, private_redis_server: RedisServer) -> Iterator[ServerProcess]:
    with ServerProcess(
        tmp_path, redis_url=private_redis_server.url, role="all", settings=QUICK
    ) as process:
        yield process


@pytest.fixture
def fast_worker(
    api: ServerProcess, tmp_path: Path, private_redis_server: RedisServer, library: Path
) -> Iterator[ServerProcess]:
    worker = ServerProcess(
        tmp_path, redis_url=private_redis_server.url, role="worker", settings=QUICK
    )
    worker._env |= {"LD_PRELOAD": str(library), "FAKETIME": "+3600"}
    worker.launch()
    yield worker
    worker.stop()


async def test_e4_a_worker_an_hour_ahead_expires_nothing(
    api: ServerProcess, fast_worker: ServerProcess
) -> None:
    ann, bob = [await register(api.base_url, f"{n}-{uuid4().hex[:8]}") for n in ("ann", "bob")]
    sent = [await send(api.base_url, ann, [bob], expires_in_s=600) for _ in range(10)]
    await eventually(lambda: "clock_disagrees" in fast_worker.output, 20)
    sent += [await send(api.base_url, ann, [bob], expires_in_s=600) for _ in range(10)]
    for message_id in sent:
        counts = await delivery(api.base_url, ann, message_id)
        assert (counts["pending"], counts["expired"]) == (1, 0)
    async with device(api.ws_url(bob.user_id), bob) as phone:
        got = {(await phone.next_message())["message_id"] for _ in sent}
    assert got == set(sent)
