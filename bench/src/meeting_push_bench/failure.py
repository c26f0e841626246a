"""压测自己的失败：一行字，说明哪一步为什么没有做成。"""

from __future__ import annotations

from meeting_push.errors import MeetingPushError


class BenchError(MeetingPushError):
    """测量没有完成；没有部分结果，因为部分的数字会误导人。"""

    code = "bench_failed"
