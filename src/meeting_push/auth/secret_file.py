"""签名密钥的文件：没有配置 ``jwt_secret`` 时，由第一个进程生成，大家共用。"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

from loguru import logger

from ..errors import ConfigurationError
from ..private_files import keep_private, private_folder
from ..settings import Settings

FILE_NAME: Final = "jwt_secret"
MIN_SECRET_BYTES: Final = 32  # RFC 7518 §3.2：HS256 的密钥不短于散列


def signing_secret(settings: Settings) -> str | None:
    """配置的密钥；没有就用数据文件夹里的。只用公钥验证的应用不需要，为 None。"""
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value()
    if any(name.startswith("HS") for name in settings.jwt_algorithms):
        return load_or_create_secret(settings.data_dir)
    return None


def load_or_create_secret(data_dir: Path) -> str:
    """``data_dir/jwt_secret`` 的内容；没有则生成（权限 0600）。

    几个进程同时调用得到同一个：先写好临时文件，再用 ``link`` 发布，已存在的绝不覆盖。

    :raises ConfigurationError: 目录不可写，或文件不可读、内容太短
    """
    path = data_dir / FILE_NAME
    try:
        if not path.exists():
            _publish(path)
        keep_private(path)
        secret = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigurationError(f"{path}: shorter than {MIN_SECRET_BYTES} bytes")
    return secret


def _publish(path: Path) -> None:
    private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # 权限就是 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        logger.bind(path=str(path)).info("jwt_secret_created")
    except FileExistsError:
        logger.bind(path=str(path)).debug("jwt_secret_found")  # 别的进程快了一步
    finally:
        os.unlink(temporary)
