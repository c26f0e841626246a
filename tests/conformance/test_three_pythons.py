"""发布的文件装进空环境，在每个支持的 Python 上做完主要的一件事，通过自己的测试。

sdist 造得出同一个轮子。这里只跑几间快的（``make test-wheels`` 是全部单元测试）。
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import Environment, LockedEnvironment, build_wheel, interpreter
from tools import wheels

ROOT: Final = Path(__file__).parents[2]
#: 没有一样要等真实的时间：坏输入、会话、限速、设置；Lua、页面：轮子里的文件都在。
ROOMS: Final = (
    *("tests/unit/protocol/test_frame_bombs.py", "tests/unit/protocol/test_foreign_envelopes.py"),
    *("tests/unit/protocol/test_session.py", "tests/unit/limits", "tests/unit/test_settings.py"),
    *("tests/unit/redis/test_scripts.py", "tests/unit/router/test_web.py"),
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """产品的与 bench 的轮子，从 sdist 造的。"""
    return wheels.build(tmp_path_factory.mktemp("built") / "dist")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.copy_suite(tmp_path_factory.mktemp("suite") / "suite")


@pytest.fixture(scope="module", params=wheels.VERSIONS)
def environment(
    request: pytest.FixtureRequest, built: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> LockedEnvironment:
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param}")
    return LockedEnvironment(tmp_path_factory.mktemp("python"), python, wheels.LOCK, built)


def test_the_sdist_builds_the_same_wheel(built: list[Path], tmp_path: Path) -> None:
    assert _contents(built[0]) == _contents(build_wheel(ROOT, tmp_path))


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")
        }


def test_the_wheel_does_the_main_job(environment: LockedEnvironment, tmp_path: Path) -> None:
    done = environment.run("meeting-push", "demo", "--once", cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing comes twice" in done.stdout


def test_the_wheel_passes_its_own_tests(environment: LockedEnvironment, suite: Path) -> None:
    assert wheels.pytest(environment, suite, ("-q", *ROOMS)) == 0


def test_an_environment_that_imports_the_source_is_refused(suite: Path) -> None:
    with pytest.raises(RuntimeError, match="would not import the wheels"):
        wheels.pytest(Environment(Path(sys.prefix)), suite, ())
