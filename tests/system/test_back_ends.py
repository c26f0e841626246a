"""``examples/`` 里的后端，各自真的跑起来，对着一个真的服务器：消息进了收件人的信箱。"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import jwt
import pytest

from meeting_push.storage.database import Database
from tests.support.child import Child
from tests.support.eventually import eventually, wait_until
from tests.support.house import House, house_fixture
from tests.support.people import Person, api_of, device
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.server_process import TEST_JWT_SECRET
from tests.unit.storage.test_naming import names_in

pytestmark = pytest.mark.timeout(180)

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
house = house_fixture({"near": ("all", {})}, engines=["own", "own-postgres"])


def environment(house: House) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return {
        **kept,
        "MEETING_PUSH_DATABASE_URL": house.database_url,
        "MEETING_PUSH_REDIS_URL": house.redis_server.url,
        "MEETING_PUSH_JWT_SECRET": TEST_JWT_SECRET,
        "MEETING_PUSH_IDENTITY": "accounts",
        "PUSH_URL": house.near.base_url,
    }


@pytest.fixture(scope="module")
def back_end(house: House) -> dict[str, str]:
    """它的环境，连同一枚密钥。"""
    command = [sys.executable, "-m", "meeting_push", "key", "create", "shop", "--scope", "send"]
    made = subprocess.run(
        command,
        env=environment(house),
        cwd=house.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"mpk_\S+", made.stdout)
    assert found, made.stdout
    return {**environment(house), "PUSH_KEY": found[0]}


@pytest.fixture
async def buyer(house: House) -> Person:
    return (await house.people(1))[0]


async def arrived(house: House, buyer: Person, content: str) -> None:
    async with api_of(house.near.base_url, buyer) as api:

        async def there() -> bool:
            items = (await api.get("/messages")).json()["items"]
            return content in {one["content"] for one in items}

        await eventually(there, 60)


def run(*command: str | Path, env: dict[str, str], cwd: Path, stdin: str = "") -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ordered(url: str) -> bool:
    """下单成了；服务器还没有起来则 False。"""
    try:
        answer = httpx.post(url, data={"what": "a tent"}, trust_env=False, timeout=20)
    except httpx.TransportError:
        return False
    assert answer.status_code == 200, answer.text
    return True


async def test_django_sends_from_a_view(
    house: House, back_end: dict[str, str], buyer: Person, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.argv[0] = 'shop'; import django_shop as shop\n"
        "from django.test import Client\n"
        f"answer = Client().post('/orders/{buyer.user_id}', {{'what': 'a tent'}})\n"
        "print(answer.json()['message_id'])"
    )
    env = {**back_end, "PYTHONPATH": f"{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}"}
    assert run(sys.executable, "-c", code, env=env, cwd=tmp_path)
    await arrived(house, buyer, "a tent")


async def test_flask_puts_it_off_to_celery(
    house: House, back_end: dict[str, str], buyer: Person, tmp_path: Path
) -> None:
    port, queue = free_port(), tmp_path / "queue"
    queue.mkdir()
    env = {
        **back_end,
        "BROKER": "filesystem://",
        "BROKER_FOLDER": str(queue),
        "PYTHONPATH": f"{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}",
    }
    worker = [sys.executable, "-m", "celery", "--app", "flask_celery:tasks", "worker"]
    flask = [sys.executable, "-m", "flask", "--app", "flask_celery", "run", "--port", str(port)]
    children = [
        Child([*worker, "--concurrency", "1"], tmp_path / "worker.log", env=env, cwd=tmp_path),
        Child(flask, tmp_path / "flask.log", env=env, cwd=tmp_path),
    ]
    try:
        wait_until(lambda: ordered(f"http://127.0.0.1:{port}/orders/{buyer.user_id}"), 60)
        await arrived(house, buyer, "a tent")
    finally:
        for child in children:
            child.stop()
            print(child.output)


async def test_a_worker_that_only_publishes(
    house: House, back_end: dict[str, str], buyer: Person, tmp_path: Path
) -> None:
    lines = f"{buyer.user_id} first\n{buyer.user_id} second\n"
    run(sys.executable, EXAMPLES / "publish_only.py", env=back_end, cwd=tmp_path, stdin=lines)
    await arrived(house, buyer, "first")
    await arrived(house, buyer, "second")


async def test_node_sends_by_rest(
    house: House, back_end: dict[str, str], buyer: Person, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH")
    arguments = (str(buyer.user_id), "Order received", "a tent")
    script = EXAMPLES / "node_backend.mjs"
    assert run(node, script, *arguments, env=back_end, cwd=tmp_path)
    await arrived(house, buyer, "a tent")


@pytest.fixture
def shop_url(house: House, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """应用自己的库，与 ``house`` 的同一种。"""
    if house.database_url.startswith("sqlite"):
        yield f"sqlite+aiosqlite:///{tmp_path}/shop.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


async def test_fastapi_with_its_own_customers_and_its_own_alembic(
    back_end: dict[str, str], shop_url: str, tmp_path: Path
) -> None:
    """两家的迁移各走各的：它的 ``check`` 看不见我们的表，它退到底我们的还在。"""
    shutil.copytree(EXAMPLES / "fastapi_alembic", tmp_path, dirs_exist_ok=True)
    ours = {"DATABASE_URL": shop_url, "IDENTITY": "application"}
    env = {**back_end, **{f"MEETING_PUSH_{name}": value for name, value in ours.items()}}
    env["DATABASE_URL"] = shop_url
    env["PYTHONPATH"] = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    # 自己的前缀：这个 Redis 归另一个数据库
    env["MEETING_PUSH_KEY_PREFIX"] = "shop:"
    alembic, port = (sys.executable, "-m", "alembic"), free_port()
    run(*alembic, "upgrade", "head", env=env, cwd=tmp_path)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port)]
    child = Child(command, tmp_path / "shop.log", env=env, cwd=tmp_path)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/openapi.json"), 60)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as shop:
            customer = (await shop.post("/customers", params={"name": "Ann"})).json()
            token = jwt.encode({"sub": customer, "iat": 1, "exp": 4_000_000_000}, TEST_JWT_SECRET)
            ann = Person(customer, "Ann", token)
            async with device(
                f"ws://127.0.0.1:{port}/push/ws/user/{customer}/messages", ann
            ) as one:
                sent = await shop.post("/orders", params={"customer": customer, "what": "a tent"})
                assert (await one.next_message())["message_id"] == sent.json()
            nobody = {"customer": str(uuid4()), "what": "a tent"}
            refused = await shop.post("/orders", params=nobody)
            assert refused.json()["error"]["code"] == "unknown_recipients"
    finally:
        child.stop()
        print(child.output)
    run(*alembic, "check", env=env, cwd=tmp_path)
    run(*alembic, "downgrade", "base", env=env, cwd=tmp_path)
    database = Database(shop_url)
    names = await names_in(database)
    await database.dispose()
    assert "mp_messages" in names
    assert not names & {"orders", "customers"}


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=20).status_code == 200
    except httpx.TransportError:
        return False
