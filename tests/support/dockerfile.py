"""读 ``Dockerfile``：指令一条一条，续行接上；够用来照着跑，不是完整的解析。"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class Instruction(NamedTuple):
    """如 ``("COPY", "src src", 0)``；``stage`` 从 0 数。"""

    name: str
    rest: str
    stage: int


def instructions() -> list[Instruction]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    found, stage = list[Instruction](), -1
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            stage += name == "FROM"
            found.append(Instruction(name, rest.strip(), stage))
    return found


def rest_of(name: str, stage: int = 1) -> list[str]:
    return [one.rest for one in instructions() if (one.name, one.stage) == (name, stage)]


def command(name: str) -> list[str]:
    """JSON 写的一条，如 ENTRYPOINT、CMD；HEALTHCHECK 的是 CMD 之后的。"""
    (rest,) = rest_of(name)
    found: list[str] = json.loads(rest[rest.index("[") :])
    return found


def environment() -> dict[str, str]:
    pairs = [pair for rest in rest_of("ENV") for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def context() -> set[Path]:
    """``.dockerignore`` 放进来的：先全部不要，``!`` 的要。"""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    return {ROOT / line.removeprefix("!") for line in lines if line.startswith("!")}
