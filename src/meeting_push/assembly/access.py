"""谁进得来、能发多少：令牌、票据、吊销、配额。"""

from __future__ import annotations

from ..auth.access_tokens import AccessTokens, ForeignVerifier
from ..auth.auth_service import AuthService
from ..auth.keys import signing_secret
from ..auth.revocations import Revocations, Revoke
from ..auth.tickets import Credentials, WsTickets
from ..clock import now_ms
from ..contracts import TokenVerifier
from ..errors import ConfigurationError
from ..limits.send_limits import SendQuota
from ..node.fleet_membership import Keyring
from ..settings import Settings
from ..supervision import Supervisor
from .bus import Bus
from .record import Record


class Access:
    """``verifier`` 验证应用自己的令牌；不给就用我们的。"""

    def __init__(
        self, settings: Settings, record: Record, bus: Bus, verifier: TokenVerifier | None
    ) -> None:
        self.revocations = Revocations(
            settings,
            record.database,
            publish=bus.control.publish,
            aside=bus.asides.of("revocations"),
            clock=bus.clock,
        )
        bus.control.on(Revoke, self.revocations.take)
        tokens = AccessTokens(settings, signing_secret(settings), bus.clock)
        if settings.owns_accounts and not tokens.can_issue:
            raise ConfigurationError("identity=accounts signs tokens: jwt_algorithms needs an HS*")
        self.auth = AuthService(
            settings,
            record.database,
            tokens,
            revocations=self.revocations,
            redis=bus.redis,
            clock=bus.clock,
        )
        #: 应用自己验证令牌的，没有指纹可比。
        self.keyring = Keyring() if verifier is not None else tokens.keyring
        self.tickets = WsTickets(bus.redis, settings.ws_ticket_ttl_s, bus.clock)
        trusted = (
            tokens if verifier is None else ForeignVerifier(verifier, settings.handshake_timeout_s)
        )
        self.credentials = Credentials(trusted, self.tickets, self.revocations)
        self.quota = SendQuota(
            settings.sends_per_user_per_s, settings.sends_per_user_burst, clock=now_ms
        )

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("revocations", self.revocations.run)
