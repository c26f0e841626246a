"""需求的模块路径；类住在 ``redis.redis_service``。"""

from ..redis.redis_service import RedisService as RedisService
