"""全部行为：每种驱动都继承它，一条不少。"""

from __future__ import annotations

from .authentication import AuthenticationBehaviour
from .client_frames import AckBehaviour, BadFrameBehaviour, RequestBehaviour
from .flushing import FlushBehaviour
from .refusing import RefusingBehaviour
from .slowness import SlownessBehaviour, TimeBehaviour


class EdgeBehaviour(
    AuthenticationBehaviour,
    FlushBehaviour,
    AckBehaviour,
    RequestBehaviour,
    BadFrameBehaviour,
    TimeBehaviour,
    SlownessBehaviour,
    RefusingBehaviour,
):
    pass
