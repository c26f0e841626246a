"""发布的文件装进空环境，在每个支持的 Python 上做完主要的一件事；sdist 造得出同一个轮子。"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.test_pythons import _interpreter
from tests.support.empty_environment import build_wheel

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements" / "runtime.txt"

pytestmark = pytest.mark.timeout(600)


def run(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MEETING_PUSH_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    run(*command, "--directory", tmp_path, cwd=ROOT)
    (sdist,) = tmp_path.glob("meeting_push-*.tar.gz")
    run("tar", "xzf", sdist, cwd=tmp_path)
    (tmp_path / "again").mkdir()
    again = build_wheel(sdist.with_name(sdist.name.removesuffix(".tar.gz")), tmp_path / "again")
    assert _contents(again) == _contents(wheel)


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")
        }


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_wheel_does_the_main_job(version: str, wheel: Path, tmp_path: Path) -> None:
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version}")
    run(python, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    ours = tmp_path / "venv" / "bin"
    pip = (ours / "python", "-m", "pip", "install", "--quiet", "--no-input")
    run(*pip, "--require-hashes", "-r", LOCK, cwd=tmp_path)
    run(*pip, "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert "nothing comes twice" in run(ours / "meeting-push", "demo", "--once", cwd=tmp_path)
    said = run(
        ours / "python", "-c", "import meeting_push; print(meeting_push.__file__)", cwd=tmp_path
    )
    assert said.startswith(str(tmp_path))
