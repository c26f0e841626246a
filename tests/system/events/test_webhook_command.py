"""``meeting-push webhook …``，与坏的文件。"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from meeting_push.events.config import key_of_url
from meeting_push.storage.database import Database
from meeting_push.storage.event_outbox import ACCEPTED
from tests.support.event_receivers import SECRET, verified
from tests.support.notice_receivers import Received, Reply, http_receiver


async def command(directory: Path, *words: str) -> tuple[int, str, str]:
    """在 ``directory`` 里，接收者在 ``hooks.yaml``。"""
    environment = {
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
        "MEETING_PUSH_WEBHOOKS": str(directory / "hooks.yaml"),
        "MEETING_PUSH_DATA_DIR": str(directory / "data"),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "meeting_push", *words],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.timeout(600)
async def test_trying_listing_and_sending_again(tmp_path: Path) -> None:
    def answer(request: Received) -> Reply:
        return Reply(b"", 204 if "good" in request.target else 403)

    async with http_receiver(answer) as receiver:
        good, bad = (f"http://{receiver.host}/{name}?token=t0" for name in ("good", "bad"))
        (tmp_path / "hooks.yaml").write_text(
            "".join(f"- {{url: '{url}', secret: {SECRET}}}\n" for url in (good, bad))
        )
        assert (await command(tmp_path, "webhook", "test", good))[:2] == (
            0,
            f"http://{receiver.host}/good?…\tHTTP 204\n",
        )
        code, out, _ = await command(tmp_path, "webhook", "test")
    assert code == 1
    assert "HTTP 204" in out
    assert "HTTP 403" in out
    assert "t0" not in out
    for request in receiver.requests:
        [event] = verified(request.body, request.headers)
        assert event["type"] == "webhook.test"
    code, out, _ = await command(tmp_path, "webhook", "list")
    assert (code, out.count("0 waiting since -\t0 dead"), "t0" in out) == (0, 2, False)
    shown = out.split("\t")[0]
    assert (await command(tmp_path, "webhook", "dead", shown))[:2] == (0, "")
    assert (await command(tmp_path, "webhook", "requeue", shown))[1] == "0 posts are sent again\n"
    assert (await command(tmp_path, "webhook", "drop", shown))[1] == "0 posts are removed\n"
    assert (await command(tmp_path, "webhook", "dead", "http://other/"))[0] == 1


@pytest.mark.timeout(300)
async def test_what_waits_for_a_url_taken_out_of_the_file_is_seen_and_dropped(
    tmp_path: Path,
) -> None:
    old, other = "http://old.example/in?token=t0", "http://new.example/"
    hooks = tmp_path / "hooks.yaml"
    hooks.write_text(f"- {{url: '{other}', secret: {SECRET}}}\n")
    assert (await command(tmp_path, "webhook", "list"))[0] == 0  # makes the database
    database = Database(f"sqlite:///{tmp_path / 'data' / 'meeting-push.db'}")
    database.events.subscribe(key_of_url(old), [ACCEPTED], lambda: None)
    async with database.transaction() as connection:
        await database.events.add(connection, ACCEPTED, [("M1", 1, 1)], 1)
    await database.dispose()
    code, out, _ = await command(tmp_path, "webhook", "list")
    assert code == 0
    assert f"{key_of_url(old)}\tunclaimed\t1 waiting since 1970-01-01T00:00:00Z\t0 dead" in out
    hooks.unlink()
    hooks.write_text("[]")
    assert (await command(tmp_path, "webhook", "drop", "http://else.example/"))[0] == 1
    assert (await command(tmp_path, "webhook", "drop", old))[1] == "1 posts are removed\n"
    assert (await command(tmp_path, "webhook", "list"))[1] == ""


async def test_a_bad_file_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "hooks.yaml").write_text("- {url: 'https://h/', secret: hunter2}\n")
    for words in (("serve", "--port", "0"), ("webhook", "list")):
        code, _, error = await command(tmp_path, *words)
        assert code == 2
        assert "Traceback" not in error
        assert "[0].secret: does not begin with whsec_" in error.splitlines()[-1]
        assert "hunter2" not in error
