"""``--reports``：写不进去就不开始，十几分钟的测量不能在最后丢掉。"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{folder} is not writable")
    return folder


Reports = Annotated[Path, typer.Option(help="Folder of the reports.", callback=_writable)]
