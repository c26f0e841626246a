"""空环境：从造好的轮子装。

``EmptyEnvironment`` 的依赖照轮子自己写的从本环境搬过去（锁着的同一版本），不联网；
``LockedEnvironment`` 是别的 Python 的，照锁去取。
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .server_process import TEST_JWT_SECRET


def build_wheel(project: Path, folder: Path) -> Path:
    """``project`` 的轮子，造在 ``folder`` 里。"""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", folder], cwd=project, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def interpreter(version: str) -> Path | None:
    """pyenv 里的，或 PATH 上的 ``python3.12``。"""
    for found in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")):
        return found
    on_path = shutil.which(f"python{version}")
    return None if on_path is None else Path(on_path)


class Environment:
    """``folder`` 里的一个；命令在它的 ``bin`` 里。"""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.python = str(self.bin / "python")

    def run(
        self,
        *command: str | Path,
        cwd: Path,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 50,
    ) -> subprocess.CompletedProcess[str]:
        """``command`` 的第一个是这个环境 ``bin/`` 里的名字。"""
        program, *arguments = command
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=cwd,
            env=self.variables | dict(env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @property
    def variables(self) -> dict[str, str]:
        return self.unset | {"MEETING_PUSH_JWT_SECRET": TEST_JWT_SECRET}

    @property
    def unset(self) -> dict[str, str]:
        """没有一个我们的设置。"""
        ours = ("MEETING_PUSH_", "PYTHON")
        return {k: v for k, v in os.environ.items() if not k.startswith(ours)}


class EmptyEnvironment(Environment):
    """``pip install <wheels>`` 之后的样子；``requirement`` 是点名要的，如 ``x[server]``。

    ``without``：轮子要、而这里不给的。
    """

    def __init__(
        self,
        folder: Path,
        requirement: str,
        wheels: Sequence[Path],
        *,
        without: Collection[str] = (),
    ) -> None:
        super().__init__(folder)
        venv.create(folder, symlinks=True)
        (self._site,) = folder.glob("lib/python*/site-packages")
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", self.python, "install"]
        subprocess.run([*pip, "--no-deps", "--no-index", *wheels], check=True)
        self._installed = {each.name: each for each in distributions(path=[str(self._site)])}
        self._bring(Requirement(requirement), without)

    def _bring(self, requirement: Requirement, without: Collection[str]) -> None:
        """它要的，它要的要的 …；已经看过的不再看。"""
        waiting, seen = [requirement], set[str]()
        while waiting:
            wanted = waiting.pop()
            name = canonicalize_name(wanted.name)
            if name in without or str(wanted) in seen:
                continue
            seen.add(str(wanted))
            if name not in self._installed:
                self._installed[name] = distribution(name)
                self._link(self._installed[name])
            waiting += _requirements(self._installed[name], wanted.extras)

    def _link(self, brought: Distribution) -> None:
        for file in brought.files or ():
            if ".." not in file.parts:  # 命令不要
                link = self._site / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(brought.locate_file(file))).resolve())


class LockedEnvironment(Environment):
    """``python`` 的空环境：照 ``lock`` 装（核对散列），再装 ``wheels``，此外什么也没有。"""

    def __init__(self, folder: Path, python: Path, lock: Path, wheels: Sequence[Path]) -> None:
        super().__init__(folder)
        subprocess.run([python, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        uv = Path(sys.executable).with_name("uv")
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", self.python]
        subprocess.run([*install, "--require-hashes", "-r", lock], check=True)
        subprocess.run([*install, "--no-deps", "--no-index", *wheels], check=True)


def _requirements(found: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        each = Requirement(text)
        if each.marker is None or any(
            each.marker.evaluate({"extra": extra}) for extra in extras or {""}
        ):
            yield each
