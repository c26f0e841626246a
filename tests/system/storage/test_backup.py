"""备份与放回：服务着抄，放回之后没有结局的以原来的 id 再来，已确认的不再来，记下的一条不少。"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from meeting_push.client import PushClient
from meeting_push.client.endpoint import RestOptions
from meeting_push.client.rest_client import RestClient
from tests.support.accounts import sign
from tests.support.eventually import eventually
from tests.support.server_process import ServerProcess, _environment

SETTINGS = {"identity": "application", "reconcile_interval_s": 0.2}
ANN, BOB = 1, 2
#: 机器再忙（测试停上一两分钟）也等得到。
PATIENCE_S = 200
PATIENT = RestOptions(timeout_s=PATIENCE_S)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "meeting_push", *arguments, "--data-dir", str(folder / "data")]
    return subprocess.run(
        line, env=_environment(SETTINGS), cwd=folder, capture_output=True, text=True, check=False
    )


def done(folder: Path, *arguments: str) -> str:
    result = command(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(folder: Path, *arguments: str) -> str:
    result = command(folder, *arguments)
    assert result.returncode in (1, 2)
    assert result.stderr.count("\n") == 1
    return result.stderr


@contextmanager
def server(folder: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(folder, settings=SETTINGS)
    try:
        yield running.start(PATIENCE_S)
    finally:
        running.stop()


async def send(at: ServerProcess, title: str) -> str:
    async with RestClient(at.base_url, sign(ANN), options=PATIENT) as rest:
        return (await rest.send([BOB], title, "c")).message_id


async def waiting(at: ServerProcess) -> dict[str, str]:
    """信箱里等着他的：id → 标题。"""
    headers = {"authorization": f"Bearer {sign(BOB)}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=PATIENCE_S) as http:
        answer = await http.get(f"{at.base_url}/api/v1/users/{BOB}/offline-messages")
    return {one["message_id"]: one["title"] for one in answer.json()["items"]}


async def inbox(at: ServerProcess) -> set[str]:
    headers = {"authorization": f"Bearer {sign(BOB)}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=PATIENCE_S) as http:
        answer = await http.get(f"{at.base_url}/api/v1/messages")
    return {one["title"] for one in answer.json()["items"]}


async def acknowledge(at: ServerProcess, title: str) -> None:
    """收下、确认这一条，别的不动；等它记下。"""
    async with PushClient(at.base_url, lambda: sign(BOB), user_id=BOB) as client:
        async for message in client:
            if message.title == title:
                await client.ack(message)
                break

        async def recorded() -> bool:
            return title not in (await waiting(at)).values()

        await eventually(recorded, PATIENCE_S)


async def shows(at: ServerProcess, wanted: dict[str, str]) -> None:
    """信箱终于恰是这些，而且不再变。"""

    async def same() -> bool:
        return await waiting(at) == wanted

    await eventually(same, PATIENCE_S)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    return asyncio.run(Story().happen(folder))


class Story:
    """两份备份：``early`` 时 one 确认了，two 等着；``late`` 时 two 确认了，three 等着。"""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    async def happen(self, folder: Path) -> Story:
        self.early, self.late = folder / "early.tar.gz", folder / "late.tar.gz"
        with server(folder) as running:
            for title in ("one", "two"):
                self.ids[title] = await send(running, title)
            await acknowledge(running, "one")
            await asyncio.to_thread(done, folder, "backup", str(self.early))
            self.ids["three"] = await send(running, "three")
            await acknowledge(running, "two")
            await shows(running, self.told("three"))
            await asyncio.to_thread(done, folder, "backup", str(self.late))
        return self

    def told(self, *titles: str) -> dict[str, str]:
        return {self.ids[title]: title for title in titles}


@pytest.mark.timeout(600)
async def test_a_backup_made_while_serving_opens_somewhere_else(
    story: Story, tmp_path: Path
) -> None:
    await asyncio.to_thread(done, tmp_path, "restore", str(story.late))
    with server(tmp_path) as running:
        await shows(running, story.told("three"))
        assert await inbox(running) == {"one", "two", "three"}
        story_id = await send(running, "four")
        await shows(running, story.told("three") | {story_id: "four"})


@pytest.mark.timeout(600)
async def test_an_older_record_beside_a_newer_redis(story: Story, tmp_path: Path) -> None:
    """记录里没有的不再有；记录里没有结局的，以原来的 id 再来。"""
    await asyncio.to_thread(done, tmp_path, "restore", str(story.late))
    await asyncio.to_thread(take_database, story.early, tmp_path)
    await asyncio.to_thread(done, tmp_path, "db", "restored")
    with server(tmp_path) as running:
        await shows(running, story.told("two"))
        assert await inbox(running) == {"one", "two"}


@pytest.mark.timeout(600)
async def test_a_newer_record_beside_an_older_redis(story: Story, tmp_path: Path) -> None:
    """不必说：记号落后，自己知道丢过。后来确认了的不再来。"""
    await asyncio.to_thread(done, tmp_path, "restore", str(story.early))
    await asyncio.to_thread(take_database, story.late, tmp_path)
    with server(tmp_path) as running:
        await shows(running, story.told("three"))
        assert await inbox(running) == {"one", "two", "three"}


def take_database(backup: Path, folder: Path) -> None:
    """只换上 ``backup`` 里的记录，原样。"""
    for end in ("-wal", "-shm"):
        (folder / "data" / f"meeting-push.db{end}").unlink(missing_ok=True)
    with tarfile.open(backup) as tar:
        tar.extract("meeting-push.db", folder / "data", filter="data")


@pytest.mark.timeout(600)
async def test_neither_runs_over_something(story: Story, tmp_path: Path) -> None:
    """不盖掉已有的备份；服务器开着、文件夹里有数据就不放回；``--force`` 把原来的挪开。"""
    with server(tmp_path) as running:
        mine = await send(running, "mine")
        said = await asyncio.to_thread(refused, tmp_path, "restore", str(story.late), "--force")
        assert "stop it first" in said
        said = await asyncio.to_thread(refused, tmp_path, "backup", str(story.late))
        assert "is there already" in said
        assert mine in await waiting(running)
    said = await asyncio.to_thread(refused, tmp_path, "restore", str(story.late))
    assert "--force" in said
    said = await asyncio.to_thread(done, tmp_path, "restore", str(story.late), "--force")
    assert "replaced-" in said
    with server(tmp_path) as running:
        await shows(running, story.told("three"))
        assert mine not in await waiting(running)


def test_what_is_no_whole_backup_changes_nothing(story: Story, tmp_path: Path) -> None:
    half, other = tmp_path / "half.tar.gz", tmp_path / "other.tar.gz"
    half.write_bytes(story.late.read_bytes()[:-2_000])
    other.write_text("hello")
    damaged = tmp_path / "damaged.tar.gz"
    repack(story.late, damaged, tmp_path / "unpacked")
    for file, why in ((half, "no whole backup"), (other, "no whole"), (damaged, "is damaged")):
        assert why in refused(tmp_path, "restore", str(file))
    assert not list((tmp_path / "data").glob("*.db"))


def repack(file: Path, to: Path, folder: Path) -> None:
    """同样的成员，其中一个改了一个字。"""
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    with (folder / "meeting-push.db").open("r+b") as database:
        database.seek(5_000)
        database.write(b"?")
    with tarfile.open(to, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(folder)


def test_only_the_embedded_form_is_backed_up_like_this(tmp_path: Path) -> None:
    env = _environment(SETTINGS | {"redis_url": "redis://127.0.0.1:1"})
    line = [sys.executable, "-m", "meeting_push", "backup", "b.tar.gz"]
    result = subprocess.run(
        line, env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "docs/operations.md" in result.stderr
    assert "no database" in refused(tmp_path, "backup", "b.tar.gz")
