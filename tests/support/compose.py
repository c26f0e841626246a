"""读 ``deploy/compose/compose.yaml``：这里没有引擎，就照它跑同样的进程，只换名字与端口。"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "compose"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def variables() -> set[str]:
    """``${NAME:?…}``：要写进 .env 的。"""
    return set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """容器里的路径 → 这里的；只要绑定的，不要卷。"""
    parts = [str(one).split(":") for one in service.get("volumes", ())]
    return {target: FOLDER / source for source, target, *_ in parts if source.startswith(".")}


def prepared(service: dict[str, Any], written: dict[str, Path], mounted: dict[str, Path]) -> str:
    """跑服务的 shell 里 ``exec`` 之前的部分（准备配置）；返回 ``exec`` 之后的。

    :param written: 它要写的容器里的路径 → 这里的
    """
    started: list[str] = service.get("entrypoint") or service["command"]
    *shell, script = started
    assert shell == ["sh", "-c"]
    script = script.replace("$$", "$")
    before, _, after = script.partition("&& exec ")
    places = mounted | written
    longest_first = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    before = re.sub(longest_first, lambda found: str(places[found[0]]), before)
    subprocess.run([*shell, before], check=True)
    return after
