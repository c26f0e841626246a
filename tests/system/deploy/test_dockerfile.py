"""``Dockerfile``：这里没有引擎，就照它的指令做：拷进去的够造，不是 root，健康检查答得上。"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support import dockerfile
from tests.support.child import Child
from tests.support.empty_environment import EmptyEnvironment, build_wheel
from tests.support.eventually import wait_until
from tests.support.ports import free_port

HADOLINT: Final = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="no hadolint for this platform")
def test_its_linter_finds_nothing() -> None:
    done = subprocess.run(
        [HADOLINT, dockerfile.ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    """只用 COPY 进去的造轮子；COPY 的都得在 ``.dockerignore`` 放进来的里面。"""
    source = tmp_path_factory.mktemp("src")
    for rest in dockerfile.rest_of("COPY", stage=0):
        *wanted, target = rest.split()
        for name in wanted:
            path = dockerfile.ROOT / name
            assert path in dockerfile.context(), name
            if path.is_dir():
                shutil.copytree(path, source / target)
            else:
                (source / target).mkdir(exist_ok=True)
                shutil.copy(path, source / target)
    wheel = build_wheel(source, tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("opt")
    return EmptyEnvironment(folder, "meeting-push[server,postgres]", [wheel])


#: 只有数据的文件夹可写，如 ``docker run --read-only``；$0 是它。
_READ_ONLY: Final = (
    'mount --bind "$0" "$0" && mount -o remount,ro,bind /'
    ' && ! touch /read-only 2>/dev/null && exec "$@"'
)


@pytest.fixture
def container(image: EmptyEnvironment, tmp_path: Path) -> Iterator[tuple[Child, dict[str, str]]]:
    """它的环境、入口，根目录只读；只换端口与数据的文件夹。"""
    data, port = tmp_path / "data", free_port()
    data.mkdir(mode=0o700)
    environment = image.variables | dockerfile.environment()
    environment |= {"PATH": f"{image.bin}:{os.environ['PATH']}", "TMPDIR": str(data)}
    environment |= {"MEETING_PUSH_DATA_DIR": str(data), "MEETING_PUSH_PORT": str(port)}
    command = [*dockerfile.command("ENTRYPOINT"), *dockerfile.command("CMD")]
    locked = ["unshare", "--mount", "sh", "-c", _READ_ONLY, str(data), *command]
    child = Child(locked, tmp_path / "log", env=environment, cwd=data)
    try:
        yield child, environment
    finally:
        child.stop()


def healthy(environment: dict[str, str]) -> bool:
    python, *arguments = dockerfile.command("HEALTHCHECK")
    port = environment["MEETING_PUSH_PORT"]
    (code,) = (one.replace(":8000/", f":{port}/") for one in arguments[1:])
    done = subprocess.run(
        [shutil.which(python, path=environment["PATH"]) or python, arguments[0], code],
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _may_unshare() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not _may_unshare(), reason="a mount namespace needs root")
@pytest.mark.timeout(120)
def test_on_a_read_only_root_it_serves_answers_its_health_check_and_leaves_in_peace(
    container: tuple[Child, dict[str, str]],
) -> None:
    child, environment = container
    assert not healthy(environment)
    wait_until(lambda: healthy(environment) or not child.running, 60)
    assert child.running, child.output
    (stop,) = dockerfile.rest_of("STOPSIGNAL")
    assert child.terminate(signal.Signals[stop], timeout=30) == 0


def test_it_runs_as_nobody_who_matters() -> None:
    (user,) = dockerfile.rest_of("USER")
    assert int(user) > 0
