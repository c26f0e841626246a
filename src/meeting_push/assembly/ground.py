"""脚下的：SQL、Redis、谁进得来。

记录（SQL）：消息在这里被接受，Redis 里的都能从这里重建。

总线（Redis）：数据连接、订阅连接、控制命令；没有给出地址就用内嵌的。

谁进得来、能发多少：令牌、票据、吊销、配额。
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from ..accept.drafts import KnownUsers
from ..accept.message_service import MessageStores
from ..auth.access_tokens import AccessTokens, RevocableCredentials
from ..auth.api_keys import ApiKeys
from ..auth.auth_service import AuthService
from ..auth.foreign import Everybody, ForeignDirectory, ForeignVerifier
from ..auth.keys import signing_secret
from ..auth.revocations import Revocations, Revoke
from ..auth.tickets import WsTickets
from ..clock import now_ms
from ..contracts import TokenVerifier, UserDirectory
from ..errors import ConfigurationError, MeetingPushError, RedisUnavailableError, UnavailableError
from ..limits.send_limits import SendQuota
from ..logs import logger
from ..meeting.service import MeetingStores
from ..model import Keyring, Revocation
from ..node.agreed_clock import AgreedClock
from ..node.control_channel import ControlChannel
from ..node.flight_recorder import FlightRecorder
from ..people.names import AccountNames, nobody
from ..people.names import Names as ShownNames
from ..people.people import People
from ..redis.address import RedisAddress
from ..redis.embedded import EmbeddedRedis
from ..redis.keys import Keys
from ..redis.presence import count_online
from ..redis.probe import check_rights
from ..redis.redis_service import NO_EVICTION, RedisService
from ..redis.replicas import Wait
from ..redis.sharded_subscriber import subscriber_for
from ..redis.switches import SwitchWatch
from ..settings import Settings
from ..storage.accounts import ApiKeyRepository, UserRepository
from ..storage.broadcasts import BroadcastRepository
from ..storage.database import Database
from ..storage.fleet import GenerationRepository
from ..storage.idempotency import IdempotencyRepository
from ..storage.inbox import InboxRepository
from ..storage.meetings import MeetingRepository, TranscriptRepository
from ..storage.messages import MessageRepository
from ..storage.outcomes import OutcomeRepository, UndeliveredRepository
from ..storage.people import PeopleRepository
from ..storage.recipients import DeliveryReports, RecipientRepository
from ..supervision import Asides, Supervisor


class Record:
    """``directory`` 是应用自己的用户表。没有给：账号归我们时用我们的，否则谁都存在。

    它认得名字（``contracts.UserNames``）就由它来说。
    """

    def __init__(self, settings: Settings, directory: UserDirectory | None) -> None:
        database = self.database = Database.of(settings.sql_url, settings.database)
        users = UserRepository(database)
        theirs = None if directory is None else ForeignDirectory(directory)
        self.people = People(
            settings.auth.person_ids,
            PeopleRepository(database),
            None if theirs is None else theirs.existing,
            most_a_day=settings.auth.people_per_user_per_day,
        )
        if theirs is not None:
            theirs.people = self.people
        #: 认得的各人的名字；给人看的是后一样：谁看得见谁。
        self.names = _names(settings, theirs, users)
        self.shown_names = _shown_names(settings, theirs, users)
        #: 抹掉了的人，这个进程所知的（``note_revoked``）。
        self.gone: set[int] = set()
        known = _directory(settings, theirs, users, self.gone)
        self._known = known if isinstance(known, KnownUsers) else None
        self.stores = MessageStores(
            database=database,
            messages=MessageRepository(database),
            inbox=InboxRepository(database),
            idempotency=IdempotencyRepository(database),
            directory=known,
        )
        self.recipients = RecipientRepository(database)
        self.reports = DeliveryReports(database)
        self.outcomes = OutcomeRepository(database)
        self.undelivered = UndeliveredRepository(database)
        self.generations = GenerationRepository(database)
        self.broadcasts = BroadcastRepository(database)
        self.meeting_stores = MeetingStores(
            database=database,
            meetings=MeetingRepository(database),
            transcripts=TranscriptRepository(database),
            directory=self.stores.directory,
        )

    def note_revoked(self, revocation: Revocation) -> None:
        """整个用户的：他可能停用了、没有了，还在不在重新问；抹掉了的从此不在。"""
        if revocation.is_erasure:
            self.gone.add(revocation.user_id)
            self.people.forget(revocation.user_id)
        whole = revocation.session_id is None and revocation.token_id is None
        if whole and self._known is not None:
            self._known.forget(revocation.user_id)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        await self.database.migrate()
        stack.push_async_callback(self.database.dispose)
        await self.people.start()


Names = Callable[[Sequence[int]], Awaitable[Mapping[int, str]]]


def _names(settings: Settings, given: ForeignDirectory | None, users: UserRepository) -> Names:
    if given is not None:
        return given.names if given.has_names else _nobody
    return users.names if settings.auth.owns_accounts else _nobody


def _shown_names(
    settings: Settings, given: ForeignDirectory | None, users: UserRepository
) -> ShownNames:
    if given is not None:
        known = given.called if given.has_names else nobody
        return ShownNames(known, given if given.has_sight else None)
    if not settings.auth.owns_accounts:
        return ShownNames()
    accounts = AccountNames(users)
    return ShownNames(accounts.called, accounts)


async def _nobody(_user_ids: Sequence[int]) -> Mapping[int, str]:
    """人归应用：名字我们不知道。"""
    return {}


def _directory(
    settings: Settings, given: ForeignDirectory | None, users: UserRepository, gone: Set[int]
) -> UserDirectory:
    if given is not None:
        return KnownUsers(given, gone=gone)
    return KnownUsers(users, gone=gone) if settings.auth.owns_accounts else Everybody(gone)


class Bus:
    """``reread``：可能漏过发布。谁发现谁置位，边缘随后给每条连接重读信箱。"""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._embedded = None if settings.redis.url else EmbeddedRedis(settings.process.data_dir)
        url = self._embedded.url if self._embedded else settings.redis.url
        assert url is not None
        address = RedisAddress.parse(url)
        keys = Keys(settings.redis.key_prefix, tagged=bool(address.cluster))
        self._timeout_s = settings.redis.timeout_s
        wait = Wait(settings.redis.wait_replicas, settings.redis.wait_ms)
        self.redis = RedisService(address, keys, settings.redis.timeout_s, wait)
        self.subscriber = subscriber_for(self.redis.lean, keys, timeout_s=settings.redis.timeout_s)
        self.control = ControlChannel(self.redis)
        self.reread = asyncio.Event()
        #: 各站往里记。
        self.recorder = FlightRecorder(settings.node.flight_recorder_entries)
        #: 各循环搁置坏项的地方。
        self.asides = Asides()
        #: 各房间看的钟。
        self.clock = AgreedClock(self.redis, database)

    async def start_server(self, stack: contextlib.AsyncExitStack) -> None:
        """内嵌的 ``redis-server``；用外面的则无事。"""
        if self._embedded is not None:
            await self._embedded.start()
            stack.push_async_callback(self._embedded.stop)

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """数据连接；订阅由边缘开始，它知道收到的交给谁。

        :raises ConfigurationError: 这个 Redis 用户少了权限
        """
        address, keys = self.redis.address, self.redis.keys
        probe_id, waits = secrets.token_hex(8), self.redis.replicas is not None
        await check_rights(address, keys, probe_id, self._timeout_s, waits=waits)
        await self.redis.start()
        stack.push_async_callback(self.redis.close)
        await self._warn_of_eviction()
        with contextlib.suppress(UnavailableError):
            await self.clock.check()

    async def _warn_of_eviction(self) -> None:
        """会淘汰键的 Redis 悄悄拿走信箱；对账者找得回来，但要过很久。"""
        try:
            policy = await self.redis.eviction_policy()
        except MeetingPushError:  # 问不到（不在、不许问）另有人说
            return
        if policy != NO_EVICTION:
            logger.bind(policy=policy, wanted=NO_EVICTION).warning("redis_may_evict_mailboxes")

    async def listen(self, stack: contextlib.AsyncExitStack) -> None:
        """没有连接的角色也听得到控制命令；有连接的由边缘去听。"""
        await self.subscriber.start(lambda _, payload: self._heard(payload), lambda: None)
        stack.push_async_callback(self.subscriber.close)
        await self.subscribe(self.redis.keys.system_channel)

    async def subscribe(self, *channels: str) -> None:
        """:raises RedisUnavailableError: 没有及时确认；没有期限的等待会藏起原因（LESSONS 26）"""
        try:
            async with asyncio.timeout(self._timeout_s):
                for channel in channels:
                    await self.subscriber.subscribe_channel(channel)
        except TimeoutError:
            why = "the subscriptions were not confirmed in time"
            raise RedisUnavailableError(why, cause=self.subscriber.cause) from None

    def _heard(self, payload: bytes) -> None:
        self.control.take(payload)

    def start_watches(self, supervisor: Supervisor) -> None:
        """大家的钟；Redis 在 Sentinel 后面的，主换了没有。"""
        supervisor.start("clock", self.clock.run)
        if self.redis.address.sentinels is not None:
            supervisor.start("sentinel", SwitchWatch(self.redis, self._timeout_s).run)

    async def check_subscriber(self) -> None:
        if not self.subscriber.connected:
            raise RedisUnavailableError("not subscribed", cause=self.subscriber.cause)

    async def count_online(self) -> int:
        return await count_online(self.redis.client, self.redis.keys)


class Access:
    """``verifier`` 验证应用自己的令牌；不给就用我们的。"""

    def __init__(
        self, settings: Settings, record: Record, bus: Bus, verifier: TokenVerifier | None
    ) -> None:
        self.revocations = Revocations(
            settings.auth,
            record.database,
            publish=bus.control.publish,
            aside=bus.asides.of("revocations"),
            clock=bus.clock,
        )
        bus.control.on(Revoke, self.revocations.take)
        self.revocations.listen(record.note_revoked)
        people = record.people
        place = people.place if people.ids.strings else None
        if settings.auth.user_ids == "string" and place is None:
            raise ConfigurationError("user_ids=string: with identity=accounts ids are integers")
        secret = signing_secret(settings.auth, settings.process.data_dir)
        tokens = AccessTokens(settings.auth, secret, bus.clock, place)
        if settings.auth.owns_accounts and not tokens.can_issue:
            raise ConfigurationError("identity=accounts signs tokens: jwt_algorithms needs an HS*")
        self.auth = AuthService(
            settings.auth,
            record.database,
            tokens,
            revocations=self.revocations,
            redis=bus.redis,
            clock=bus.clock,
        )
        #: 应用自己验证令牌的，没有指纹可比。
        self.keyring = Keyring() if verifier is not None else tokens.keyring
        self.tickets = WsTickets(bus.redis, settings.handshake.ticket_ttl_s, bus.clock)
        trusted = (
            tokens
            if verifier is None
            else ForeignVerifier(verifier, settings.edge.handshake_timeout_s, place)
        )
        self.credentials = RevocableCredentials(trusted, self.tickets, self.revocations.known)
        self.quota = SendQuota(
            settings.messages.sends_per_user_per_s,
            settings.messages.sends_per_user_burst,
            clock=now_ms,
            per_key_per_s=settings.messages.sends_per_key_per_s,
        )
        #: 后端的密钥；只有开着 REST 的角色认它们。
        self.keys = ApiKeys(
            ApiKeyRepository(record.database), settings.auth.revocation_refresh_s, now_ms
        )
        self._serves_api = settings.process.role.serves_api

    def start(self, supervisor: Supervisor) -> None:
        supervisor.start("revocations", self.revocations.run)
        if self._serves_api:
            supervisor.start("api-keys", self.keys.run)
