"""meeting-push：用户级实时推送。

应用用得着的都从这里导入，别的模块可以随时搬家。名词、错误、契约与 SDK 只要
``pip install meeting-push``；内嵌服务器的（``MeetingPush`` 与各站）按需导入，要 ``[server]``。
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    AccountDisabledError,
    AlreadyDueError,
    AuthenticationError,
    BadCredentialsError,
    BadFrameError,
    BadKeyError,
    ChannelFailedError,
    ConfigurationError,
    DatabaseUnavailableError,
    DirectoryUnavailableError,
    ForbiddenError,
    IdempotencyConflictError,
    InvalidInputError,
    InvalidJsonError,
    InvalidTokenError,
    MalformedEnvelopeError,
    MeetingEndedError,
    MeetingPushError,
    MessageExpiredError,
    MissingExtraError,
    NotFoundError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    PeopleLimitError,
    QueueFullError,
    RateLimitedError,
    RedisCommandError,
    RedisUnavailableError,
    ScopeError,
    SendLimitError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
    TooExpensiveError,
    UnavailableError,
    UnknownConnectionError,
    UnknownParticipantsError,
    UnknownRecipientsError,
    UnsupportedMediaTypeError,
    UsernameTakenError,
    VerifierUnavailableError,
    WatchLimitError,
    WeakPasswordError,
)
from .meeting_model import (
    Meeting,
    MeetingView,
    Participant,
    Segment,
)
from .model import (
    ADMIN_ROLE,
    RECORDER_ROLE,
    USER_ROLE,
    Accepted,
    ConnectionInfo,
    DeliveryStatus,
    Draft,
    Message,
    MessageType,
    PresenceStatus,
    Principal,
    RecipientState,
    Sender,
)
from .version import __version__

if TYPE_CHECKING:
    from .accept.message_service import MessageService
    from .app import MeetingPush
    from .auth.auth_service import AuthService
    from .auth.revocations import Revocations
    from .broadcast.service import BroadcastService
    from .client import (
        ApiError,
        ClientOptions,
        ClientState,
        DeliveryReport,
        HandshakeRejectedError,
        InboxMessage,
        InboxPage,
        NotConnectedError,
        PushClient,
        PushRefusedError,
        ReceivedMessage,
        RestClient,
        RestOptions,
        ServerUnreachableError,
        TokenKeeper,
        TokenUnreadableError,
    )
    from .contracts import TokenVerifier, UserDirectory
    from .deliver.message_publisher import MessagePublisher
    from .deliver.offline_message_queue import OfflineMessageQueue
    from .events.units import PushEvent
    from .meeting.service import MeetingService
    from .monitoring.health import Health
    from .monitoring.metrics import Metrics
    from .outcome.delivery_confirmation_service import DeliveryConfirmationService
    from .people.erasure import Erasures
    from .people.people import People
    from .presence.online_status_service import OnlineStatusService
    from .protocol.frames import (
        ErrorFrame,
        Gap,
        Notice,
        Presence,
        ReadSync,
        Receipt,
        Resync,
        Withdrawn,
    )
    from .queue.consumer_pool import ConsumerPool
    from .queue.message_consumer import MessageConsumer
    from .queue.message_queue import MessageQueue
    from .redis.redis_service import RedisService
    from .settings import Role, Settings, load_settings
    from .storage.migration import upgrade_tables
    from .websocket.manager import ConnectionManager

#: 用到才导入的名字 → 它所在的模块；与上面一一对应（有测试）。
_HOMES = {
    "ApiError": ".client",
    "AuthService": ".auth.auth_service",
    "BroadcastService": ".broadcast.service",
    "ClientOptions": ".client",
    "ClientState": ".client",
    "ConnectionManager": ".websocket.manager",
    "ConsumerPool": ".queue.consumer_pool",
    "DeliveryConfirmationService": ".outcome.delivery_confirmation_service",
    "DeliveryReport": ".client",
    "Erasures": ".people.erasure",
    "ErrorFrame": ".protocol.frames",
    "Gap": ".protocol.frames",
    "HandshakeRejectedError": ".client",
    "Health": ".monitoring.health",
    "InboxMessage": ".client",
    "InboxPage": ".client",
    "MeetingPush": ".app",
    "MeetingService": ".meeting.service",
    "MessageConsumer": ".queue.message_consumer",
    "MessagePublisher": ".deliver.message_publisher",
    "MessageQueue": ".queue.message_queue",
    "MessageService": ".accept.message_service",
    "Metrics": ".monitoring.metrics",
    "NotConnectedError": ".client",
    "Notice": ".protocol.frames",
    "OfflineMessageQueue": ".deliver.offline_message_queue",
    "People": ".people.people",
    "OnlineStatusService": ".presence.online_status_service",
    "Presence": ".protocol.frames",
    "PushClient": ".client",
    "PushEvent": ".events.units",
    "PushRefusedError": ".client",
    "ReadSync": ".protocol.frames",
    "Receipt": ".protocol.frames",
    "ReceivedMessage": ".client",
    "RedisService": ".redis.redis_service",
    "RestClient": ".client",
    "RestOptions": ".client",
    "Resync": ".protocol.frames",
    "Revocations": ".auth.revocations",
    "Role": ".settings",
    "ServerUnreachableError": ".client",
    "Settings": ".settings",
    "TokenKeeper": ".client",
    "TokenUnreadableError": ".client",
    "TokenVerifier": ".contracts",
    "UserDirectory": ".contracts",
    "Withdrawn": ".protocol.frames",
    "load_settings": ".settings",
    "upgrade_tables": ".storage.migration",
}

__all__ = [
    "ADMIN_ROLE",
    "RECORDER_ROLE",
    "USER_ROLE",
    "Accepted",
    "AccountDisabledError",
    "AlreadyDueError",
    "ApiError",
    "AuthService",
    "AuthenticationError",
    "BadCredentialsError",
    "BadFrameError",
    "BadKeyError",
    "BroadcastService",
    "ChannelFailedError",
    "ClientOptions",
    "ClientState",
    "ConfigurationError",
    "ConnectionInfo",
    "ConnectionManager",
    "ConsumerPool",
    "DatabaseUnavailableError",
    "DeliveryConfirmationService",
    "DeliveryReport",
    "DeliveryStatus",
    "DirectoryUnavailableError",
    "Draft",
    "Erasures",
    "ErrorFrame",
    "ForbiddenError",
    "Gap",
    "HandshakeRejectedError",
    "Health",
    "IdempotencyConflictError",
    "InboxMessage",
    "InboxPage",
    "InvalidInputError",
    "InvalidJsonError",
    "InvalidTokenError",
    "MalformedEnvelopeError",
    "Meeting",
    "MeetingEndedError",
    "MeetingPush",
    "MeetingPushError",
    "MeetingService",
    "MeetingView",
    "Message",
    "MessageConsumer",
    "MessageExpiredError",
    "MessagePublisher",
    "MessageQueue",
    "MessageService",
    "MessageType",
    "Metrics",
    "MissingExtraError",
    "NotConnectedError",
    "NotFoundError",
    "Notice",
    "OfflineMessageQueue",
    "OnlineStatusService",
    "OutcomeUnknownError",
    "Participant",
    "PayloadTooLargeError",
    "People",
    "PeopleLimitError",
    "Presence",
    "PresenceStatus",
    "Principal",
    "PushClient",
    "PushEvent",
    "PushRefusedError",
    "QueueFullError",
    "RateLimitedError",
    "ReadSync",
    "Receipt",
    "ReceivedMessage",
    "RecipientState",
    "RedisCommandError",
    "RedisService",
    "RedisUnavailableError",
    "RestClient",
    "RestOptions",
    "Resync",
    "Revocations",
    "Role",
    "ScopeError",
    "Segment",
    "SendLimitError",
    "Sender",
    "ServerUnreachableError",
    "Settings",
    "TokenExpiredError",
    "TokenKeeper",
    "TokenNotYetValidError",
    "TokenRevokedError",
    "TokenUnreadableError",
    "TokenVerifier",
    "TooExpensiveError",
    "UnavailableError",
    "UnknownConnectionError",
    "UnknownParticipantsError",
    "UnknownRecipientsError",
    "UnsupportedMediaTypeError",
    "UserDirectory",
    "UsernameTakenError",
    "VerifierUnavailableError",
    "WatchLimitError",
    "WeakPasswordError",
    "Withdrawn",
    "__version__",
    "load_settings",
    "upgrade_tables",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name], __name__), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, error, "server") from error
