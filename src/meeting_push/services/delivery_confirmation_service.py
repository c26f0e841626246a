"""需求的模块路径；类住在 ``outcome.delivery_confirmation_service``。"""

from ..outcome.delivery_confirmation_service import (
    DeliveryConfirmationService as DeliveryConfirmationService,
)
