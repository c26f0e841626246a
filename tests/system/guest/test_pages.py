"""文档里的块照抄着跑：在空文件夹里，用造好的轮子；只换端口。"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import Environment
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(240)

ROOT: Final = Path(__file__).parents[3]
_BLOCK: Final = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in _BLOCK.findall(text) if kind == language]


def code(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip() and not line.startswith("#")]


def bash(
    environment: Environment, script: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """``script`` 做完，它留在后台的也结束。"""
    env = {
        **environment.unset,
        "PATH": f"{environment.bin}:{os.environ['PATH']}",
        **variables,
    }
    ending = "set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
    return subprocess.run(
        ["bash", "-c", ending + script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("newcomer", ["full", "on_3_13"], indirect=True)
def test_a_newcomer_embeds_it_in_fifteen_lines_and_three_settings(
    newcomer: Environment, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "embedding.md").read_text().partition("\n## 十五行\n")[2]
    text = text.partition("\n## ")[0]
    [shop], [prepare, run] = blocks(text, "python"), blocks(text, "sh")
    assert len(code(shop)) <= 15
    assert prepare.count("MEETING_PUSH_") == 3
    port = str(free_port())
    began = time.monotonic()
    (tmp_path / "shop.py").write_text(shop)
    there = run.replace("8000", port).replace(
        "meeting-push listen", f"meeting-push listen --url http://127.0.0.1:{port}"
    )
    done = bash(newcomer, prepare + there, tmp_path)
    print(f"{time.monotonic() - began:.1f} s")
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout[done.stdout.index("{") :])
    assert (heard["title"], heard["content"]) == ("Order received", "tent")
    assert heard["sender"]["name"] == "shop"


#: 再发一条，由页上的 Python 来收。
AGAIN: Final = """
curl -s $api/messages -H "$json" -H "authorization: Bearer $token" \\
  -d '{"recipient_ids": [1], "title": "again", "content": ""}'
python -u listening.py "$token" > heard &
until [ -s heard ]; do sleep 0.1; done
cat heard
"""


@pytest.mark.parametrize(
    ("page", "newcomer"),
    [("README.md", "on_3_13"), ("README.zh-CN.md", "full")],
    indirect=["newcomer"],
)
def test_what_a_readme_shows_runs(page: str, newcomer: Environment, tmp_path: Path) -> None:
    """``make`` 与 ``pip install`` 归别的测试。"""
    text = (ROOT / page).read_text()
    [talk] = [block for block in blocks(text, "sh") if "curl" in block]
    embedded, listening = blocks(text, "python")
    (tmp_path / ".venv").symlink_to(newcomer.bin.parent)
    (tmp_path / "embedded.py").write_text(embedded)
    with ServerProcess(tmp_path, python=newcomer.python) as server:
        (tmp_path / "listening.py").write_text(listening.replace("8000", str(server.port)))
        where = f"listen --url {server.base_url} --count 1"
        talk = talk.replace("8000", str(server.port)).replace("listen", where)
        done = bash(newcomer, f"{talk}wait\n{AGAIN}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"message_id"' in done.stdout
    assert done.stdout.splitlines()[-1].endswith("again")
    imported = bash(newcomer, "python -c 'import embedded; print(embedded.app.title)'", tmp_path)
    assert imported.returncode == 0, imported.stderr
