"""从造好的轮子装进空环境：``[server]`` 会服务，光的是 SDK 与三个命令，里面没有 bench。"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.child import Child
from tests.support.empty_environment import EmptyEnvironment, build_wheel
from tests.support.eventually import wait_until
from tests.support.server_process import ServerProcess

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = ROOT / "examples"
PASSWORD: Final = "a long password"


@pytest.fixture(scope="module")
def bare(product: Path, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    return EmptyEnvironment(tmp_path_factory.mktemp("bare"), "meeting-push", [product])


@pytest.fixture(scope="module")
def server(
    full: EmptyEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("wheels"), python=full.python) as process:
        yield process


class Account:
    def __init__(self, full: EmptyEnvironment, server: ServerProcess, name: str) -> None:
        made = full.run(
            *("meeting-push", "user", "create", name, "--data-dir", "data"),
            cwd=server.directory,
            stdin=f"{PASSWORD}\n",
        )
        assert made.returncode == 0, made.stderr
        self.id = made.stdout.strip()
        self.login = {"URL": server.base_url, "USERNAME": name, "PASSWORD": PASSWORD}


# ── [server] ────────────────────────────────────────────────────────────────


def test_the_product_holds_no_bench(product: Path) -> None:
    rooms = {name.partition("/")[0] for name in zipfile.ZipFile(product).namelist()}
    assert {room for room in rooms if not room.endswith(".dist-info")} == {"meeting_push"}


def test_built_twice_it_is_the_same_file(product: Path, tmp_path: Path) -> None:
    assert build_wheel(ROOT, tmp_path).read_bytes() == product.read_bytes()


def test_what_the_bare_command_line_sends_it_hears_from_the_server(
    full: EmptyEnvironment, bare: EmptyEnvironment, server: ServerProcess, tmp_path: Path
) -> None:
    user, where = Account(full, server, "erin").id, ("--url", server.base_url)
    token = bare.run("meeting-push", "token", "--user-id", user, cwd=tmp_path).stdout.strip()
    say = ("--to", user, "--title", "hi", "--token", token, *where)
    hear = ("--user-id", user, "--count", "1", *where)
    sent = bare.run("meeting-push", "send", *say, cwd=tmp_path)
    heard = bare.run("meeting-push", "listen", *hear, cwd=tmp_path)
    assert sent.returncode == heard.returncode == 0, sent.stderr + heard.stderr
    assert json.loads(heard.stdout)["message_id"] == sent.stdout.strip()


def test_postgresql_without_its_driver_says_what_to_install(
    full: EmptyEnvironment, tmp_path: Path
) -> None:
    said = full.run(
        "meeting-push", "user", "list", "--database-url", "postgresql://h/d", cwd=tmp_path
    )
    assert said.returncode == 2
    wanted = "PostgreSQL needs asyncpg: pip install 'meeting-push[postgres]'"
    assert said.stderr == f"meeting-push: {wanted}\n"


def test_bench_is_a_distribution_beside_it(product: Path, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    bench = build_wheel(ROOT / "bench", tmp_path / "bench")
    both = EmptyEnvironment(tmp_path / "both", "meeting-push-bench", [product, bench])
    assert both.run("meeting-push", "bench", "edges", "--help", cwd=tmp_path).returncode == 0


# ── 光的 ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "command",
    ["serve", "demo --once", "doctor", "user create ann", "user list", "db downgrade 0007"],
)
def test_the_bare_command_line_says_what_to_install(
    bare: EmptyEnvironment, command: str, tmp_path: Path
) -> None:
    said = bare.run("meeting-push", *command.split(), cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith(f"meeting-push: {command.split()[0]} needs ")
    assert said.stderr.endswith(": pip install 'meeting-push[server]'\n")
    assert said.stderr.count("\n") == 1


def test_the_bare_command_line_says_where_bench_is(bare: EmptyEnvironment, tmp_path: Path) -> None:
    said = bare.run("meeting-push", "bench", "1k", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "pip install meeting-push-bench" in said.stderr


def test_a_name_of_the_server_says_what_to_install(bare: EmptyEnvironment, tmp_path: Path) -> None:
    said = bare.run("python", "-c", "from meeting_push import MeetingPush", cwd=tmp_path)
    assert "MissingExtraError: MeetingPush needs " in said.stderr
    assert said.stderr.endswith(": pip install 'meeting-push[server]'\n")


# ── 例子 ────────────────────────────────────────────────────────────────────


def test_the_examples_of_the_sdk_run_on_the_bare_install(
    full: EmptyEnvironment, bare: EmptyEnvironment, server: ServerProcess, tmp_path: Path
) -> None:
    ann, ben = Account(full, server, "ann"), Account(full, server, "ben")
    listening = Child(
        [bare.python, str(EXAMPLES / "listen.py")],
        tmp_path / "listen.log",
        env=bare.variables | ben.login,
        cwd=tmp_path,
    )
    try:
        script = EXAMPLES / "send_and_track.py"
        sent = bare.run("python", script, ben.id, "Hello", "See you", cwd=tmp_path, env=ann.login)
        assert "delivered 1, failed 0" in sent.stdout, sent.stderr + listening.output
        wait_until(lambda: "ann: Hello — See you" in listening.output, 10)
    finally:
        listening.stop()


def test_the_example_that_embeds_runs_on_server(full: EmptyEnvironment, tmp_path: Path) -> None:
    ran = full.run("python", EXAMPLES / "in_your_transaction.py", cwd=tmp_path)
    assert ran.stdout == "waiting for the buyer: a tent\n", ran.stderr
