"""随包附带的 Lua 脚本。"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from .connection.lean import LeanConnection
from .connection.link import Argument
from .connection.replies import ScriptMissingError


class Script:
    """``redis/lua/<name>.lua``，几个名字则依次相接；按 SHA1 调用，Redis 不认识时带着全文再来。

    NOSCRIPT 表示什么都没执行，所以重来是安全的（重启、SCRIPT FLUSH、主从切换之后）。
    """

    def __init__(self, *names: str) -> None:
        folder = files(__package__).joinpath("lua")
        self.text = b"".join([folder.joinpath(f"{name}.lua").read_bytes() for name in names])
        self._sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    async def run(
        self, lean: LeanConnection, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> Any:
        """执行并返回它的回答；错误同 ``LeanConnection.execute``。"""
        try:
            return await lean.execute("EVALSHA", self._sha, len(keys), *keys, *args)
        except ScriptMissingError:
            return await lean.execute("EVAL", self.text, len(keys), *keys, *args)
