"""需求的模块路径；类住在 ``accept.message_service``。"""

from ..accept.message_service import MessageService as MessageService
