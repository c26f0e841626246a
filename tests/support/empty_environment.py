"""空环境：从造好的轮子装，依赖照轮子自己写的从本环境搬过去（锁着的同一版本），不联网。"""

from __future__ import annotations

import os
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


class EmptyEnvironment:
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
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        self.python = str(self.bin / "python")
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

    def run(
        self, *command: str | Path, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
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
            timeout=50,
            check=False,
        )

    @property
    def variables(self) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MEETING_PUSH_", "PYTHON"))
        }
        return kept | {"MEETING_PUSH_JWT_SECRET": TEST_JWT_SECRET}


def _requirements(found: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        each = Requirement(text)
        if each.marker is None or any(
            each.marker.evaluate({"extra": extra}) for extra in extras or {""}
        ):
            yield each
