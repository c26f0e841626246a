"""各个命令共有的：``--quick``、``--reports``，改计划的选项，写进报告的命令。"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
import typer

from .report import Heading

#: 报告放在哪里、历史留不留，与数字无关。
_ELSEWHERE: Final = ("--reports", "--keep")
P = TypeVar("P", bound=msgspec.Struct)


def _writable(folder: Path) -> Path:
    """写不进去就不开始：十几分钟的测量不能在最后丢掉。"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{folder} is not writable")
    return folder


Quick = Annotated[bool, typer.Option("--quick", help="Small: seconds, not minutes.")]
Reports = Annotated[Path, typer.Option(help="Folder of the reports.", callback=_writable)]


def changed(plan: P, **given: object) -> P:
    """``plan``，命令行给了的项照给的。"""
    return msgspec.structs.replace(plan, **{k: v for k, v in given.items() if v is not None})


def heading_of(context: typer.Context) -> Heading:
    return Heading.now(context.info_name or "", typed_command(context))


def typed_command(context: typer.Context) -> str:
    """照它再来一次就是同样的计划：命令行上给出的选项一个不少。

    可能带着密码的地址（里面有 ``@`` 或 ``?``）只留选项的名字。
    """
    return " ".join(["meeting-push bench", context.info_name or "", *_given(context)])


def _given(context: typer.Context) -> Iterator[str]:
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        option = parameter.opts[0]
        if source is None or source.name != "COMMANDLINE" or option in _ELSEWHERE:
            continue
        value = context.params[parameter.name or ""]
        for one in value if isinstance(value, list | tuple) else (value,):
            yield option if one is True else f"{option} {_shown(one)}"


def _shown(value: object) -> str:
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return "…" if "@" in text or "?" in text else shlex.quote(text)
