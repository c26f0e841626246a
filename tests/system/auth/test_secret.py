"""没有给密钥时自己造的那一个：一起启动的进程造出的是同一个。"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_processes_that_start_together_get_the_same_secret(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from meeting_push.auth.keys import *;"
        "print(load_or_create_secret(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    secrets = {child.communicate()[0] for child in children}
    assert len(secrets) == 1
    assert b"\n" in secrets.pop()
