"""数据文件夹是谁写的：旧的程序读不懂新的 AOF，与其让它死在启动里，不如先说。"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from ...private_files import private_file
from .binary import ServerBinary

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
