"""后端的 API 密钥：造、认、吊销。密钥只在造的那一刻有；存下的是它的 SHA-256。

认一枚是查内存里的一张表，没有 SQL；表每 ``period_s`` 秒重读一次，所以吊销至多这么久之后到处生效。
不认得的也许是刚造的：当场再读一遍，可是每秒至多 ``LOOKS_PER_S`` 次，乱猜的打不到数据库上。
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, cast

from ..clock import Clock, now_ms
from ..errors import BadKeyError, InvalidInputError, MeetingPushError
from ..limits.rate import TokenBucket
from ..logs import RepeatedWarning
from ..model import (
    ADMIN_ROLE,
    KEY_PREFIX,
    KEY_ROLE,
    MAX_SAFE_INTEGER,
    SCOPES,
    KeyPrincipal,
    Scope,
)
from ..storage.accounts import ApiKey, ApiKeyRepository
from ..supervision import periodically

_RANDOM_BYTES: Final = 32
_SHAPE: Final = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{43}}")
LOOKS_PER_S: Final = 5
MAX_NAME_CHARS: Final = 64
#: 还能用的至多这么多枚：每个进程每秒读一遍全部。
MAX_KEYS: Final = 1_000


class ApiKeys:
    """``create``、``revoke``、``list`` 随时可用；``verify`` 要 ``run`` 由监督者一直运行。"""

    def __init__(
        self, records: ApiKeyRepository, period_s: float = 1, clock: Clock = now_ms
    ) -> None:
        self._records = records
        self._period_s = period_s
        self._clock = clock
        self._rows: Sequence[ApiKey] = ()
        self._known: dict[bytes, KeyPrincipal] = {}
        self._looks = TokenBucket(LOOKS_PER_S, clock(), LOOKS_PER_S, exact=True)
        self._looking: asyncio.Task[None] | None = None
        #: 最近一次没有读成的原因。
        self._trouble: MeetingPushError | None = None
        self._stale = RepeatedWarning("api_keys_stale")

    # ── 认 ──────────────────────────────────────────────────────────────────

    async def verify(self, key: str) -> KeyPrincipal:
        """:raises BadKeyError: 没有这一枚，或已吊销（分不出）
        :raises UnavailableError: 不认得，而此刻问不到记录
        """
        if not _SHAPE.fullmatch(key):
            raise BadKeyError("the API key is malformed")
        digest = _digest(key)
        if digest not in self._known:
            await self._look_again()
        found = self._known.get(digest)
        if found is None:
            raise BadKeyError("the API key is not known")
        return found

    async def refresh(self) -> None:
        """:raises DatabaseUnavailableError: 照旧认原来的"""
        try:
            rows = await self._records.live()
        except MeetingPushError as error:
            self._trouble = error
            raise
        self._trouble = None
        if rows != self._rows:
            self._rows = rows
            self._known = {row.digest: _principal(row) for row in rows}

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。头一遍不急：不认得的当场读。"""
        await asyncio.sleep(self._period_s)
        await periodically(self.refresh, partial(asyncio.sleep, self._period_s), self._stale)

    async def _look_again(self) -> None:
        """同时来的共用一次；读得太勤就不读。"""
        if self._looking is None or self._looking.done():
            if not self._looks.take(1, self._clock()):
                if self._trouble is not None:
                    raise self._trouble.with_traceback(None)
                return
            self._looking = asyncio.create_task(self.refresh(), name="api-keys-look")
        await asyncio.shield(self._looking)

    # ── 造 ──────────────────────────────────────────────────────────────────

    async def create(self, name: str, scopes: Iterable[str]) -> tuple[int, str]:
        """（号，密钥）；密钥此后哪里也找不回来。

        :raises InvalidInputError: 名字或范围不对，或密钥太多
        """
        name, wanted = _checked_name(name), _checked_scopes(scopes)
        if await self._records.count_live() >= MAX_KEYS:
            raise InvalidInputError(f"there are {MAX_KEYS} keys already: revoke those not used")
        key = KEY_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        number = await self._records.create(name, ",".join(wanted), _digest(key), self._clock())
        return number, key

    async def list(self) -> list[ApiKey]:
        """全部，吊销了的也在。"""
        return await self._records.all()

    async def revoke(self, key_id: int) -> bool:
        """False：没有这个号，或早已吊销。"""
        if not 0 < key_id <= MAX_SAFE_INTEGER:
            return False
        return await self._records.revoke(key_id, self._clock())


def _digest(key: str) -> bytes:
    """随机的 256 位，用不着慢的散列。"""
    return hashlib.sha256(key.encode()).digest()


def _principal(row: ApiKey) -> KeyPrincipal:
    scopes = frozenset(cast("Sequence[Scope]", row.scopes.split(",")))
    return KeyPrincipal(
        user_id=-row.id,
        role=ADMIN_ROLE if "admin" in scopes else KEY_ROLE,
        issued_at=row.created_at,
        expires_at=MAX_SAFE_INTEGER,
        name=row.name,
        scopes=scopes,
    )


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInputError(f"the name of a key: 1 to {MAX_NAME_CHARS} printable characters")
    return name


def _checked_scopes(scopes: Iterable[str]) -> list[Scope]:
    given = {scope.strip() for scope in scopes}
    if not given or not given <= set(SCOPES):
        raise InvalidInputError(f"--scope: one or more of {','.join(SCOPES)}")
    return [scope for scope in SCOPES if scope in given]
