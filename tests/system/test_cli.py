"""命令行：每个命令像人那样用一遍；坏的用法是一行字。"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import jwt
import pytest

from meeting_push import __version__
from tests.support.event_streams import event_stream
from tests.support.eventually import eventually
from tests.support.people import device, register
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess


def meeting_push(
    *arguments: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return subprocess.run(
        [sys.executable, "-m", "meeting_push", *arguments],
        cwd=cwd,
        env=inherited | {"MEETING_PUSH_JWT_SECRET": TEST_JWT_SECRET, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


#: ESC、C1、双向控制符、换行。
HOSTILE = "there\n\x1b[31m\x9b2J\u202e"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("cli")) as process:
        yield process


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_it_says_its_version(asked: str, tmp_path: Path) -> None:
    said = meeting_push(asked, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (0, f"{__version__}\n")


def test_user_create_reads_the_password_and_prints_the_id(server: ServerProcess) -> None:
    data = ("--data-dir", str(server.directory / "data"))
    made = meeting_push(
        "user",
        "create",
        "root",
        "--role",
        "admin",
        *data,
        cwd=server.directory,
        stdin="a long password\n",
    )
    listed = meeting_push("user", "list", *data, cwd=server.directory)
    assert made.returncode == 0
    assert made.stdout.strip().isdigit()
    assert "root" in listed.stdout
    assert "admin" in listed.stdout


def test_token_prints_a_signed_token(tmp_path: Path) -> None:
    result = meeting_push(
        "token", "--user-id", "42", "--role", "admin", "--ttl-s", "60", cwd=tmp_path
    )
    claims = jwt.decode(
        result.stdout.strip(), TEST_JWT_SECRET, algorithms=["HS256"], audience="meeting-push"
    )
    assert (claims["sub"], claims["role"]) == ("42", "admin")
    assert claims["exp"] - claims["iat"] == pytest.approx(60, abs=1.1)


def test_listen_prints_what_send_sends(server: ServerProcess) -> None:
    user = meeting_push(
        "user",
        "create",
        "erin",
        "--data-dir",
        str(server.directory / "data"),
        cwd=server.directory,
        stdin="a long password\n",
    ).stdout.strip()
    where = ("--url", server.base_url)
    sent = meeting_push(
        "send", "--to", user, "--title", "hi", "--content", HOSTILE, *where, cwd=server.directory
    )
    heard = meeting_push("listen", "--user-id", user, "--count", "1", *where, cwd=server.directory)
    assert sent.returncode == 0, sent.stderr
    message = json.loads(heard.stdout)
    assert (message["message_id"], message["title"]) == (sent.stdout.strip(), "hi")
    assert message["content"] == HOSTILE
    assert heard.stdout.rstrip("\n").isprintable()  # A13：别人写的碰不到终端


def test_a13_an_error_is_one_printable_line(tmp_path: Path) -> None:
    """A13: 服务器的话、环境变量的值，都可能是别人写的。"""
    result = meeting_push("send", "--to", "1", "--title", "t", "--url", HOSTILE, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.rstrip("\n").isprintable()


def test_doctor_names_each_part(tmp_path: Path, server: ServerProcess) -> None:
    (tmp_path / ".env").write_text("MEETING_PUSH_PORT=0\n")
    result = meeting_push("doctor", cwd=tmp_path)
    for part in ("redis", "database", "open files", "port"):
        assert part in result.stdout


@pytest.mark.timeout(180)
async def test_doctor_counts_the_connections_by_transport(
    tmp_path: Path, server: ServerProcess
) -> None:
    """问正在跑的那一个；没有在跑的也不是毛病。"""
    person = await register(server.base_url, f"doctor-{uuid4().hex[:8]}")
    (tmp_path / ".env").write_text(f"MEETING_PUSH_PORT={server.port}\n")
    url = f"{server.base_url}/sse/user/{person.user_id}/messages"
    bearer = {"authorization": f"Bearer {person.token}"}
    wanted = re.compile(r"connections +1 native, 0 asgi, 2 sse")

    async def counted() -> bool:
        said = await asyncio.to_thread(meeting_push, "doctor", cwd=tmp_path)
        return wanted.search(said.stdout) is not None

    async with (
        device(server.ws_url(person.user_id), person),
        event_stream(url, bearer) as one,
        event_stream(url, bearer) as two,
    ):
        await one.read()
        await two.read()
        await eventually(counted, 60)
    (tmp_path / ".env").write_text("MEETING_PUSH_PORT=1\n")
    assert "no server of ours" in meeting_push("doctor", cwd=tmp_path).stdout


def test_doctor_says_which_api_keys_there_are(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"MEETING_PUSH_DATA_DIR={tmp_path}/data\n")
    for name, scope in (("shop", "send"), ("ops", "read,admin"), ("old", "admin")):
        assert meeting_push("key", "create", name, "--scope", scope, cwd=tmp_path).returncode == 0
    meeting_push("key", "revoke", "3", cwd=tmp_path)
    said = " ".join(meeting_push("doctor", cwd=tmp_path).stdout.split())
    assert "api keys 2 live, 1 revoked; may do everything (admin): 2 (ops)" in said


def test_doctor_fails_on_what_is_wrong(tmp_path: Path) -> None:
    result = meeting_push("doctor", "--redis-url", "redis://127.0.0.1:1/0", cwd=tmp_path)
    assert result.returncode == 1
    assert "FAIL redis" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("send", "--to", "x", "--title", "t"), 1),
        (("send", "--to", "1", "--title", "t", "--url", "http://127.0.0.1:1"), 1),
        (("send", "--to", "1", "--title", "t", "--url", "ftp://x"), 2),
        (("token", "--user-id", "0"), 1),
        (("token", "--user-id", "x"), 2),
        (("user", "create", "x", "--role", "king"), 2),
        (("serve", "--role", "king"), 2),
        (("fly",), 2),
    ],
    ids=str,
)
def test_a_wrong_use_is_told_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    result = meeting_push(*arguments, cwd=tmp_path, stdin="a long password\n")
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


@pytest.mark.parametrize("heavy", ["meeting_push_bench", "meeting_push.drill"])
def test_the_command_line_loads_neither_bench_nor_drills(tmp_path: Path, heavy: str) -> None:
    look = (
        "import sys; import meeting_push.cli;"
        f"sys.exit(any(name.startswith('{heavy}') for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, timeout=50, check=False)
    assert ran.returncode == 0


def test_a_server_without_webhooks_does_not_pay_for_aiohttp(tmp_path: Path) -> None:
    look = "import sys, meeting_push.server; sys.exit('aiohttp' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, timeout=50, check=False)
    assert ran.returncode == 0


def test_without_its_distribution_bench_says_how_to_get_it(tmp_path: Path) -> None:
    bare = (
        "import sys; from unittest.mock import patch; from meeting_push.cli import main;"
        "sys.argv[1:] = ['bench', 'edges', '--quick'];"
        "patch('meeting_push.cli.entry_points', lambda **_: ()).start(); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", bare],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "pip install meeting-push-bench" in ran.stderr


def test_bench_is_in_the_help(tmp_path: Path) -> None:
    assert "bench" in meeting_push("--help", cwd=tmp_path).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_its_commands(shell: str, tmp_path: Path) -> None:
    """``meeting-push --install-completion`` 装进 shell 的那一段，与它问的时候的回答。"""
    asked = {
        "_TYPER_COMPLETE_ARGS": "meeting-push ser",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": "meeting-push ser",
        "COMP_CWORD": "1",
    }
    assert "complete" in completion(f"source_{shell}", tmp_path)
    assert "serve" in completion(f"complete_{shell}", tmp_path, **asked)


def completion(what: str, folder: Path, **asked: str) -> str:
    command = Path(sys.executable).with_name("meeting-push")
    env = os.environ | {"_MEETING_PUSH_COMPLETE": what, **asked}
    done = subprocess.run(
        [command], env=env, cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    return done.stdout
