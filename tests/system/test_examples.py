"""``examples/`` 里不经服务器就跑得完的。"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs(empty_database_url: str, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEETING_PUSH_")}
    env |= {"MEETING_PUSH_DATA_DIR": str(tmp_path), "DATABASE_URL": empty_database_url}
    script = ROOT / "examples" / "in_your_transaction.py"
    done = subprocess.run(
        [sys.executable, script], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "waiting for the buyer: a tent\n"
