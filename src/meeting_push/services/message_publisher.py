"""需求的模块路径；类住在 ``deliver.message_publisher``。"""

from ..deliver.message_publisher import MessagePublisher as MessagePublisher
