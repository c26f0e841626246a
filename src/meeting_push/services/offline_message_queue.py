"""需求的模块路径；类住在 ``deliver.offline_message_queue``。"""

from ..deliver.offline_message_queue import OfflineMessageQueue as OfflineMessageQueue
