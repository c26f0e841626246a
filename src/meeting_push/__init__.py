"""meeting-push：用户级实时推送。

公开的名字按需导入：只用客户端的人不必等服务器的依赖（FastAPI、SQLAlchemy）载入。
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .accept.message_service import MessageService
    from .app import MeetingPush
    from .auth.auth_service import AuthService
    from .client.push_client import PushClient
    from .client.rest_client import RestClient
    from .deliver.message_publisher import MessagePublisher
    from .deliver.offline_message_queue import OfflineMessageQueue
    from .outcome.delivery_confirmation_service import DeliveryConfirmationService
    from .presence.online_status_service import OnlineStatusService
    from .queue.consumer_pool import ConsumerPool
    from .queue.message_consumer import MessageConsumer
    from .queue.message_queue import MessageQueue
    from .redis.redis_service import RedisService
    from .settings import Settings, load_settings
    from .websocket.manager import ConnectionManager

#: 名字 → 它所在的模块；与上面的导入一一对应（有测试）。
_HOMES = {
    "AuthService": ".auth.auth_service",
    "ConnectionManager": ".websocket.manager",
    "ConsumerPool": ".queue.consumer_pool",
    "DeliveryConfirmationService": ".outcome.delivery_confirmation_service",
    "MeetingPush": ".app",
    "MessageConsumer": ".queue.message_consumer",
    "MessagePublisher": ".deliver.message_publisher",
    "MessageQueue": ".queue.message_queue",
    "MessageService": ".accept.message_service",
    "OfflineMessageQueue": ".deliver.offline_message_queue",
    "OnlineStatusService": ".presence.online_status_service",
    "PushClient": ".client.push_client",
    "RedisService": ".redis.redis_service",
    "RestClient": ".client.rest_client",
    "Settings": ".settings",
    "load_settings": ".settings",
}

__all__ = [
    "AuthService",
    "ConnectionManager",
    "ConsumerPool",
    "DeliveryConfirmationService",
    "MeetingPush",
    "MessageConsumer",
    "MessagePublisher",
    "MessageQueue",
    "MessageService",
    "OfflineMessageQueue",
    "OnlineStatusService",
    "PushClient",
    "RedisService",
    "RestClient",
    "Settings",
    "__version__",
    "load_settings",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
