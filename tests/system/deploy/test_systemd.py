"""``deploy/systemd/``：由 systemd 自己的工具看；这里的一号进程不是它，跑不了单元。"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from meeting_push.settings import Role

UNIT: Final = Path(__file__).parents[3] / "deploy" / "systemd" / "meeting-push@.service"
INSTALLED: Final = "/opt/meeting-push/bin/meeting-push"
#: ``systemd-analyze security`` 的暴露程度，百分之几；不加约束的是 96。
MOST_EXPOSED: Final = 20

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")


@pytest.fixture(params=list(Role))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = UNIT.read_text()
    assert f"ExecStart={INSTALLED} serve --role %i\n" in text
    made = tmp_path / f"meeting-push@{request.param}.service"
    made.write_text(text.replace(INSTALLED, str(Path(sys.executable).with_name("meeting-push"))))
    return made


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def test_each_role_is_a_unit_systemd_accepts(unit: Path) -> None:
    done = _analyze("verify", unit)
    ours = [line for line in done.stderr.splitlines() if "meeting-push" in line]
    assert (done.returncode, ours) == (0, [])


def test_it_may_do_little(unit: Path) -> None:
    done = _analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)
    assert done.returncode == 0, done.stdout[-300:]
