"""断开的、办完的立即消失，不等垃圾回收：数还活着的，与只有回收才收得走的。"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable


def alive(kinds: tuple[type, ...]) -> Counter[str]:
    return _counted(gc.get_objects(), kinds)


def left_behind(kinds: tuple[type, ...]) -> Counter[str]:
    """只有垃圾回收才收得走的；收走它们。"""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return _counted(gc.garbage, kinds)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def _counted(objects: Iterable[object], kinds: tuple[type, ...]) -> Counter[str]:
    """看类型本身，不问 ``__class__``：弱引用的代理会去问已经不在的那一个。"""
    return Counter(type(each).__name__ for each in objects if issubclass(type(each), kinds))
