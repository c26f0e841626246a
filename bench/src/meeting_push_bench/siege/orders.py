"""父进程与攻击者、老实人两个进程之间的话。"""

from __future__ import annotations

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..load_process import Wire
from ..target import Target
from .plan import SiegePlan


class Person(msgspec.Struct, frozen=True, kw_only=True):
    user_id: int
    name: str
    password: str


class Town(msgspec.Struct, frozen=True, kw_only=True):
    """攻击者是会议的参与者之一；``absent`` 从不上线、不登录，信箱里有一条老实人的急信。"""

    target: Target
    honest: list[Person]
    attacker_id: int
    absent: Person
    crowd_ids: list[int]
    meeting_id: str


class Attack(Wire, frozen=True, kw_only=True):
    """照 ``name`` 攻击 ``seconds`` 秒；回答 ``Attacked``。"""

    town: Town
    name: str
    address: str
    seconds: float


class Live(Wire, frozen=True, kw_only=True):
    """从 ``address``（``forwarded``：经代理说自己是谁）过日子；回答 ``Lived``。"""

    town: Town
    plan: SiegePlan
    address: str
    forwarded: str | None
    seconds: float


class Attacked(Wire, frozen=True, kw_only=True):
    """``answers``：HTTP 状态码、``closed``、``silent`` 各几次。"""

    sent_bytes: int
    answers: dict[str, int]


class Lived(Wire, frozen=True, kw_only=True):
    """``latencies``：做的事 → 微秒；``refused``：没有做成的，按原因。"""

    latencies: dict[str, LatencyHistogram]
    refused: dict[str, int]
