"""需求的模块路径；类住在 ``auth.auth_service``。"""

from ..auth.auth_service import AuthService as AuthService
