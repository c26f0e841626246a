"""日志：loguru 为主，标准库的（uvicorn、picows、alembic）并入同一出口。

令牌绝不出现（SEC-2）：写出之前整行涂掉 ``token=``、``ticket=``、``bearer`` 与 JWT，
不论是哪个库打印的（uvicorn 接受 WebSocket 时会打印整条 URL，LESSONS 11）。
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Final

from loguru import logger

from .settings import Settings

_SECRETS: Final = re.compile(
    r"((?:token|ticket|password|secret)=|bearer[. ]\s*)[^\s&\"',;]+", re.IGNORECASE
)
#: 光秃秃的 JWT：三段 base64url，第一段以 {" 开头。
_JWT: Final = re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?")


def redact(text: str) -> str:
    """涂掉一行文字里的令牌。"""
    return _JWT.sub("***", _SECRETS.sub(r"\1***", text))


#: uvicorn 记为 ERROR（有的还带回溯），其实是客户端的事，谁都能从外面制造：降为 DEBUG。
_CLIENT_FAULTS: Final = frozenset(
    {
        "Invalid UTF-8 sequence received from client.",
        "ASGI callable returned without completing handshake.",  # 升级途中客户端走了
    }
)


class _ToLoguru(logging.Handler):
    """标准库日志 → loguru。"""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in _CLIENT_FAULTS:
            record.levelno, record.levelname, record.exc_info = logging.DEBUG, "DEBUG", None
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        # 深度 0：调用者是库，它的名字已在 record.name 里
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(
            level, "{}", record.getMessage()
        )


def _format(record: dict[str, object]) -> str:
    extra = record["extra"]
    assert isinstance(extra, dict)
    fields = "".join(f" {key}={{extra[{key}]}}" for key in extra)
    return "{time:YYYY-MM-DDTHH:mm:ss.SSSZ} {level: <7} {message}" + fields + "\n{exception}"


def _write(text: str) -> None:
    """最后一道：整行（连同异常文字）都过一遍，哪个库写的都一样。"""
    sys.stderr.write(redact(text))


def configure_logging(settings: Settings) -> None:
    """进程启动时调用一次；内嵌进别的应用时由应用决定，不调用它。"""
    logger.remove()
    if settings.log_json:
        logger.add(_write, level=settings.log_level, serialize=True, diagnose=False)
    else:
        # diagnose=False：回溯里不展开变量的值，它们可能是令牌
        logger.add(
            _write,
            level=settings.log_level,
            format=_format,  # type: ignore[arg-type]
            diagnose=False,
        )
    logging.basicConfig(handlers=[_ToLoguru()], level=settings.log_level, force=True)
    for name in ("picows", "aiosqlite", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
