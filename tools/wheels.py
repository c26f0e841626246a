"""造好的轮子跑自己的单元测试（``make test-wheels``）：每个 Python 一个空环境，里面没有源码。

``build/wheels/`` 里：``dist`` 是 sdist 与从它造的轮子（bench 的也是），``suite`` 是测试与它们要读的
页，没有 ``src/``；``3.11`` … 是环境，照 ``requirements/dev.txt`` 装，再装轮子。参数原样给 pytest；
``--python 3.12`` 只跑那一个。没有通过的单独再来一次（同 ``make test``），再不过就是不过。
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tests.support.empty_environment import (
    Environment,
    LockedEnvironment,
    build_wheel,
    interpreter,
)

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "requirements" / "dev.txt"
VERSIONS: Final = ("3.11", "3.12", "3.13")
#: 测试要读的，``src/``、``bench/`` 不在其中。
_READ: Final = ("tests", "docs", "deploy", "examples", "tools", "requirements")
#: ``pytest.ExitCode.TESTS_FAILED``。
_SOME_FAILED: Final = 1
_UNWANTED: Final = shutil.ignore_patterns("__pycache__", "node_modules")
_WHERE: Final = (
    "import meeting_push, meeting_push_bench;"
    "print(meeting_push.__file__, meeting_push_bench.__file__, sep='\\n')"
)


def main() -> int:
    """:returns: 有一个 Python 不在，或有一个没有通过，就不是 0"""
    versions, given = _split(sys.argv[1:])
    folder = ROOT / "build" / "wheels"
    wheels = build(folder / "dist")
    suite = copy_suite(folder / "suite")
    results = [run(version, folder, wheels, suite, given) for version in versions]
    return max(results)


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """（哪些 Python，给 pytest 的）。"""
    rest = iter(arguments)
    wanted, given = list[str](), list[str]()
    for argument in rest:
        if argument == "--python":
            wanted.append(next(rest))
        else:
            given.append(argument)
    return wanted or VERSIONS, given


def build(folder: Path) -> list[Path]:
    """产品的轮子从它的 sdist 造；bench 的也是。"""
    shutil.rmtree(folder, ignore_errors=True)
    return [_built(project, folder / project.name) for project in (ROOT, ROOT / "bench")]


def _built(project: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run(  # noqa: S603 — 都是常量
        [*command, "--directory", folder], cwd=project, check=True, capture_output=True
    )
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build_wheel(folder / sdist.name.removesuffix(".tar.gz"), folder)


def copy_suite(folder: Path) -> Path:
    """没有 ``src/`` 的一份：导入的只能是装着的。"""
    shutil.rmtree(folder, ignore_errors=True)
    for name in _READ:
        shutil.copytree(ROOT / name, folder / name, ignore=_UNWANTED)
    for name in _at_the_top():
        shutil.copy(ROOT / name, folder)
    return folder


def _at_the_top() -> Iterator[str]:
    yield from ("pyproject.toml", ".env.example")
    yield from (path.name for path in ROOT.glob("*.md"))


def run(
    version: str, folder: Path, wheels: Sequence[Path], suite: Path, given: Sequence[str]
) -> int:
    """在 ``version`` 上：造环境，看清导入的是装着的，跑。"""
    python = interpreter(version)
    if python is None:
        sys.stdout.write(f"Python {version} is not here\n")
        return 1
    environment = LockedEnvironment(folder / version, python, LOCK, wheels)
    sys.stdout.write(f"Python {version}: {', '.join(wheel.name for wheel in wheels)}\n")
    sys.stdout.flush()
    return twice(partial(pytest, environment, suite), given or ("tests/unit",))


def twice(attempt: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """机器与别人共用，等真实时间的总有等得太久的：没有通过的单独再来一次。"""
    first = attempt(arguments)
    if first != _SOME_FAILED:
        return first
    sys.stdout.write("once more, alone, what did not pass:\n")
    sys.stdout.flush()
    return attempt((*arguments, "-n", "0", "--last-failed", "--last-failed-no-failures=none"))


def pytest(environment: Environment, suite: Path, arguments: Sequence[str]) -> int:
    """:raises RuntimeError: 导入的不是环境里装着的"""
    said = environment.run("python", "-c", _WHERE, cwd=suite).stdout.split()
    if len(said) != 2 or not all(Path(one).is_relative_to(environment.bin.parent) for one in said):
        raise RuntimeError(f"the tests would not import the wheels but {said}")
    command = [environment.python, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=suite, env=environment.unset, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
