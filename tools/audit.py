"""锁里的版本有没有已知的漏洞（``make audit``）：由 ``pip-audit`` 问 PyPI。

它问不到时自己也说“没有发现”，退出码 0。这里：0 都问到了，没有；1 有；3 有没问到的，没有查完。
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

LOCK: Final = Path(__file__).resolve().parent.parent / "requirements" / "runtime.txt"
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3


def audit(lock: Path) -> tuple[int, list[str]]:
    """退出码，要说的话。"""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock)]
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(  # noqa: S603 — 锁着的工具
        [*command, *options], capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except json.JSONDecodeError:
        why = done.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        return UNKNOWN, [f"nothing was checked: {why[0]}"]
    return _judged(found)


def _judged(found: list[dict[str, Any]]) -> tuple[int, list[str]]:
    skipped = [one for one in found if "skip_reason" in one]
    holes = [(one, hole) for one in found for hole in one.get("vulns", ())]
    lines = [
        f"{one['name']} {one['version']}: {hole['id']}, fixed in"
        f" {', '.join(hole['fix_versions']) or 'no version yet'}"
        for one, hole in holes
    ]
    lines += [f"not checked: {one['skip_reason']}" for one in skipped]
    lines.append(f"{len(found) - len(skipped)} of {len(found)} checked, {len(holes)} known holes")
    code = VULNERABLE if holes else UNKNOWN if skipped or not found else CLEAN
    return code, lines


def main() -> None:
    code, lines = audit(Path(sys.argv[1]) if len(sys.argv) > 1 else LOCK)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
