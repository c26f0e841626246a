"""一处发现：服务器没有像承诺的那样对待坏输入。"""

from __future__ import annotations


class Finding(Exception):  # noqa: N818 — 它是结果，不是压测自己的错
    """文字说明是什么；哪个 case 由抓住它的人补上。"""
