"""轮次：同一件事同时只由一个进程做。做两遍本就无害，所以租约到期、丢了都不要紧。"""

from __future__ import annotations

import secrets

from .connection.lean import LeanConnection


class Turn:
    """错误同 ``LeanConnection.execute``；``ttl_ms`` 之内没有续的，轮到别人。"""

    def __init__(self, lean: LeanConnection, key: str, ttl_ms: int) -> None:
        self._lean = lean
        self._key = key
        self._ttl_ms = ttl_ms
        self._me = secrets.token_hex(8)

    async def take(self) -> bool:
        """轮到我，则占住；已在我手里也算。"""
        taken = await self._lean.execute("SET", self._key, self._me, "NX", "PX", self._ttl_ms)
        return taken is not None or await self._is_mine()

    async def keep(self) -> None:
        await self._lean.execute("PEXPIRE", self._key, self._ttl_ms)

    async def give_back(self) -> None:
        if await self._is_mine():
            await self._lean.execute("DEL", self._key)

    async def _is_mine(self) -> bool:
        return bool(await self._lean.execute("GET", self._key) == self._me.encode())
