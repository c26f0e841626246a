"""断开的、办完的立即消失，不等垃圾回收：数还活着的，与只有回收才收得走的。"""

from __future__ import annotations

import gc
from collections import Counter


def alive(kinds: tuple[type, ...]) -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


def left_behind(kinds: tuple[type, ...]) -> Counter[str]:
    """只有垃圾回收才收得走的；收走它们。"""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(each).__name__ for each in gc.garbage if isinstance(each, kinds))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
