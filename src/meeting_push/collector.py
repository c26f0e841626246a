"""循环垃圾回收：启动时就有的从此不看，整堆的回收很少做。

一条连接是几十个活很久的对象。按缺省的设置，一万条连接涌来时六分之一的 CPU 花在回收上；收一次整堆
要停几百毫秒，人人都感觉得到。连接断开时自己拆掉互指（``tests/edge/test_cycles.py``），所以循环垃圾
几乎没有；留着回收，是防我们不知道的。
"""

from __future__ import annotations

import gc
from typing import Final

#: 净增这么多对象收一次年轻一代（约 1 ms）；十次收一次中年（约 10 ms）；净增一百万才收整堆。
THRESHOLDS: Final = (2_000, 10, 50)


def calm_collector() -> None:
    """服务开始后调用一次。"""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
