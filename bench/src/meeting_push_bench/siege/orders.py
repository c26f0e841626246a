"""要做多少（写进报告），与给攻击者、老实人两个进程的命令和它们的回答。"""

from __future__ import annotations

from typing import Final

import msgspec

from meeting_push.monitoring.latency import LatencyHistogram

from ..load_process import Wire
from ..target import Target

#: 老实人与攻击者平常的地址；后者也是受信任的反向代理（A12 由它转交 IPv6 的地址）。
HONEST_ADDRESS: Final = "127.0.0.10"
ATTACKER_ADDRESS: Final = "127.0.0.66"
#: 一个人的发送上限：默认的。
SENDS_PER_S: Final = 1_000
SENDS_BURST: Final = 50_000
#: 服务器许的那一个来源。
FRIENDLY_ORIGIN: Final = "https://app.example"


class SiegePlan(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds``：每种坏法、每种地址各这么久；速率都是老实人合起来的每秒。"""

    honest: int = 20
    quiet_s: float = 30
    seconds: float = 12
    lead_s: float = 1  # 攻击开始之后多久才量：先让它占住该占的
    sends_per_s: float = 20
    connects_per_s: float = 4
    logins_per_s: float = 3
    segments_per_s: float = 5
    reads_per_s: float = 4
    only: str = ""  # 只做这几种，逗号隔开；空 = 全部


QUICK_SIEGE: Final = SiegePlan(honest=4, quiet_s=3, seconds=2, lead_s=0.2)


class Person(msgspec.Struct, frozen=True, kw_only=True):
    user_id: int
    name: str
    password: str


class Town(msgspec.Struct, frozen=True, kw_only=True):
    """攻击者是会议的参与者之一；``absent`` 从不上线、不登录，信箱里有一条老实人的急信。

    人归应用的，没有密码，谁也不登录。
    """

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
