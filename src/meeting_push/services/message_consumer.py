"""需求的模块路径；类住在 ``queue.message_consumer``。"""

from ..queue.message_consumer import MessageConsumer as MessageConsumer
