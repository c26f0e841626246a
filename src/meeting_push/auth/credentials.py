"""凭据：令牌或票据 → 身份，不论来自我们还是内嵌的应用，都要过吊销这一关。"""

from __future__ import annotations

from ..contracts import TokenVerifier
from ..model import Principal
from .revocations import Revocations
from .tickets import WsTickets


class Credentials:
    """实现 ``contracts.Credentials``。"""

    def __init__(
        self, verifier: TokenVerifier, tickets: WsTickets, revocations: Revocations
    ) -> None:
        self._verifier = verifier
        self._tickets = tickets
        self._revocations = revocations
        self.is_revoked = revocations.is_revoked

    async def verify_access_token(self, token: str) -> Principal:
        principal = await self._verifier.verify_access_token(token)
        self._revocations.check(principal)
        return principal

    async def redeem_ticket(self, ticket: str) -> Principal:
        principal = await self._tickets.redeem(ticket)
        self._revocations.check(principal)
        return principal
