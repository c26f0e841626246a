"""D6：只有 Python ≥ 3.11、pip 与 make 的机器上，两条命令里的第一条真的能用。"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import interpreter

ROOT: Final = Path(__file__).parents[2]
#: 没有 redis-server、valkey-server：内嵌的只能来自轮子。
WITHOUT_REDIS: Final = ("git", "make", "sh", "bash", "env", "awk", "sed", "touch", "rm", "cp")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_d6_the_demo_runs_in_a_fresh_clone_without_any_redis(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version}")
    clone, tools = tmp_path / "clone", tmp_path / "bin"
    tools.mkdir()
    for name in WITHOUT_REDIS:
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    _clone(clone)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MEETING_PUSH_", "MAKE"))}
    demo = subprocess.run(
        ["make", "demo", "ONCE=1", f"PYTHON={python}"],
        cwd=clone,
        env=inherited | {"PATH": str(tools)},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "nothing comes twice" in demo.stdout


def _clone(folder: Path) -> None:
    """git 看着的文件，照现在的样子（没有提交的也算）。"""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                tar.add(ROOT / name, name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
