"""profile ``edges``：用户连接的两种 edge 在同一次运行里逐项比较。

每一轮每个 edge 启动一个新服务器，先量空闲内存（堆还没有被别的事用过），再量其余。
各轮交替谁先谁后：机器上别的活动对两者一样。
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from .accounts import make_accounts
from .edges_report import EdgeFigures
from .measurements import measure_durable, measure_fanout, measure_idle, measure_rest
from .open_files import allow_sockets
from .plan import EdgesPlan
from .progress import Steps
from .server_under_test import ServerUnderTest
from .stage import Crew, Stage, crew

EDGES: Final = ("native", "asgi")

#: 给出一个 edge 的被测服务器，离开时收回。
ServerSource = Callable[[str], AbstractContextManager[ServerUnderTest]]


def run_edges(
    edges: Sequence[str], plan: EdgesPlan, source: ServerSource, steps: Steps
) -> list[EdgeFigures]:
    """依次测完全部；数字见 ``figures``。

    :raises BenchError: 哪一步没有做成；此前的数字也不要了
    """
    allow_sockets(max(plan.idle_sockets, plan.fanout_sockets))  # 服务器进程继承它
    with crew() as workers:
        return [
            _measure(f"{repeat + 1}/{plan.repeats} {edge}", edge, plan, source, workers, steps)
            for repeat in range(plan.repeats)
            for edge in (edges if repeat % 2 == 0 else reversed(edges))
        ]


def _measure(
    name: str, edge: str, plan: EdgesPlan, source: ServerSource, workers: Crew, steps: Steps
) -> EdgeFigures:
    with source(edge) as server:
        stage = Stage(server, plan, workers)
        with steps.step(f"{name}: idle sockets") as on_progress:
            idle = measure_idle(stage, on_progress)
        accounts = make_accounts(server.target, plan.recipients)
        with steps.step(f"{name}: fan-out"):
            fanout = measure_fanout(stage, plan.shallow_frames)
        with steps.step(f"{name}: fan-out, behind"):
            backlog = measure_fanout(stage, plan.deep_frames)
        with steps.step(f"{name}: REST sends") as on_progress:
            rest = measure_rest(stage, accounts, on_progress)
        with steps.step(f"{name}: POST to socket"):
            durable = measure_durable(stage, accounts)
    return EdgeFigures(
        edge=edge, idle=idle, fanout=fanout, backlog=backlog, rest=rest, durable=durable
    )
