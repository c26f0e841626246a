"""内存里的吊销名单：连接与请求的路上只问它，没有 I/O。"""

from __future__ import annotations

from ..model import Principal, Revocation


class RevocationList:
    """整个用户的吊销记着不忘，其余到期就忘。"""

    def __init__(self) -> None:
        #: user_id → 此刻（含）以前签发的都作废。
        self._users: dict[int, int] = {}
        #: (user_id, id) → 记到何时；None 永远。外来的 id 只在一个用户之内唯一。
        self._sessions: dict[tuple[int, str], int | None] = {}
        self._tokens: dict[tuple[int, str], int | None] = {}

    def covers(self, principal: Principal) -> bool:
        user_id = principal.user_id
        before = self._users.get(user_id)
        if before is not None and principal.issued_at <= before:
            return True
        if principal.session_id is not None and (user_id, principal.session_id) in self._sessions:
            return True
        return principal.token_id is not None and (user_id, principal.token_id) in self._tokens

    def add(self, revocation: Revocation) -> bool:
        """已经知道的则 False；幂等，与次序无关。"""
        user_id = revocation.user_id
        if revocation.token_id is not None:
            return _put(self._tokens, (user_id, revocation.token_id), revocation.expires_at)
        if revocation.session_id is not None:
            return _put(self._sessions, (user_id, revocation.session_id), revocation.expires_at)
        if revocation.before <= self._users.get(user_id, 0):
            return False
        self._users[user_id] = revocation.before
        return True

    def forget(self, now: int) -> None:
        """忘掉到期的：它们所指的令牌已经过期。"""
        for known in (self._sessions, self._tokens):
            for key in [key for key, until in known.items() if until is not None and until <= now]:
                del known[key]


def _put(known: dict[tuple[int, str], int | None], key: tuple[int, str], until: int | None) -> bool:
    news = key not in known
    known[key] = until
    return news
