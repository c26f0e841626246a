"""Python SDK：``PushClient`` 收，``RestClient`` 发与查，``TokenKeeper`` 管令牌。"""

from .endpoint import ClientOptions, RestOptions
from .errors import (
    ApiError,
    HandshakeRejectedError,
    NotConnectedError,
    PushRefusedError,
    ServerUnreachableError,
    TokenUnreadableError,
)
from .intake import ReceivedMessage
from .ledger import DeviceState, MemoryStore, PositionStore, StateFile
from .lifeline import ClientState, ConnectionState
from .push_client import PushClient
from .rest_call import DeliveryReport, InboxMessage, InboxPage, RecipientReport
from .rest_client import RestClient, TokenKeeper

__all__ = [
    "ApiError",
    "ClientOptions",
    "ClientState",
    "ConnectionState",
    "DeliveryReport",
    "DeviceState",
    "HandshakeRejectedError",
    "InboxMessage",
    "InboxPage",
    "MemoryStore",
    "NotConnectedError",
    "PositionStore",
    "PushClient",
    "PushRefusedError",
    "ReceivedMessage",
    "RecipientReport",
    "RestClient",
    "RestOptions",
    "ServerUnreachableError",
    "StateFile",
    "TokenKeeper",
    "TokenUnreadableError",
]
