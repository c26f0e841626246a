"""内嵌 Redis 的启动器：自成一个小进程，做完三件事就 exec 成 redis-server。

不用 ``preexec_fn``：在多线程进程 fork 之后、exec 之前跑 Python 可能死锁。
用法：``python launcher.py <父进程 pid> <程序> [参数…]``
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    os.umask(0o077)
    if sys.platform == "linux":
        # 主人被 kill -9 时内核替他发 SIGTERM：Redis 写完 AOF 再走
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # 主人在 prctl 之前就死了
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 — 不经 shell，正是所要的


if __name__ == "__main__":
    main()
