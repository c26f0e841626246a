"""需求的模块路径；类住在 ``presence.online_status_service``。"""

from ..presence.online_status_service import OnlineStatusService as OnlineStatusService
