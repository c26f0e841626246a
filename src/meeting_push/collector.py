"""循环垃圾回收：启动时就有的从此不看，年轻一代攒大一些再看。

一条连接是几十个活很久的对象，缺省每 700 次净分配就扫一遍年轻一代，连接风暴里六分之一的 CPU 花在
这里；整堆的一次要停几十到几百毫秒，人人都感觉得到。我们的对象互指处都在关闭时断开
（``NativeSocket``、``UserConnection``），循环垃圾很少，不急。
"""

from __future__ import annotations

import gc
from typing import Final

#: 年轻一代的大小；二、三代的倍数。
THRESHOLDS: Final = (20_000, 20, 20)


def calm_collector() -> None:
    """服务开始后调用一次。"""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
