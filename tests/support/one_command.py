"""一条命令，从敲下到退出。"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def command(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """做完一条 ``meeting-push``：设置只从 ``words`` 来，连不上的依赖只等一秒。"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    return subprocess.run(
        [sys.executable, "-m", "meeting_push", *words, "--data-dir", str(directory / "data")],
        cwd=directory,
        env=env | {"MEETING_PUSH_START_PATIENCE_S": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
