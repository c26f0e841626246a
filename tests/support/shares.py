"""几个 pytest 进程怎样分活：一份是一个文件，或合用一套系统的一个文件夹；长的先开始。"""

from __future__ import annotations

from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

#: 夹具 ``scope="package"`` 的：拆开就各起一套。
TOGETHER: Final = frozenset(
    {
        "tests/system/auth",
        "tests/system/meeting",
        "tests/system/rest",
        "tests/conformance/rfc6455",
    }
)
#: 从最长的起：末尾只剩一份时，它不该是长的。
LONGEST_FIRST: Final = (
    "tests/system/auth",
    "tests/chaos/test_chaos.py",
    "tests/system/events/test_ten_thousand_events.py",
    "tests/conformance/test_previous_version.py",
    "tests/fuzz/test_server_input.py",
    "tests/conformance/test_three_pythons.py",
    "tests/faults/test_failover.py",
    "tests/system/monitoring/test_required_alerts.py",
    "tests/conformance/openapi/test_openapi.py",
    "tests/faults/test_readiness.py",
)


class Shares(LoadScopeScheduling):  # type: ignore[misc]
    """代替 xdist 的 ``--dist loadfile``。"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder = path.rpartition("/")[0]
        return folder if folder in TOGETHER else path

    def _assign_work_unit(self, node: Any) -> None:
        longest = next((one for one in LONGEST_FIRST if one in self.workqueue), None)
        if longest is not None:
            self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
