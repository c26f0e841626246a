"""需求的模块路径；类住在 ``queue.message_queue``。"""

from ..queue.message_queue import MessageQueue as MessageQueue
