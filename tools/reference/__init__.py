"""参考页：由代码写出，测试守着它们是新的（``make reference``）。"""

from __future__ import annotations

from pathlib import Path

from . import alert_rules, codes, command_line, frames, python_names, rest
from .pages import FOLDER

PAGES = {
    "rest.md": rest.page,
    "frames.md": frames.page,
    "codes.md": codes.page,
    "alert-rules.md": alert_rules.page,
    "command-line.md": command_line.page,
    "python.md": python_names.page,
}


def written() -> dict[Path, str]:
    """各页的全文。"""
    return {FOLDER / name: page() for name, page in PAGES.items()}
