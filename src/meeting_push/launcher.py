"""子进程的启动器：自成一个小进程，做完三件事就 exec 成目标程序（redis-server、工人）。

不用 ``preexec_fn``：在多线程进程 fork 之后、exec 之前跑 Python 可能死锁。
用法：``python launcher.py <父进程 pid> <程序> [参数…]``
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def dying_with_us(*command: str) -> tuple[str, ...]:
    """包上启动器的命令行：父进程（调用者）一死，它就收到 SIGTERM。"""
    return (sys.executable, "-I", "-S", __file__, str(os.getpid()), *command)


def main() -> None:
    parent, *command = sys.argv[1:]
    os.umask(0o077)
    if sys.platform == "linux":
        # 主人被 kill -9 时内核替他发 SIGTERM：Redis 写完 AOF、工人排空连接再走
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # 主人在 prctl 之前就死了
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 — 不经 shell，正是所要的


if __name__ == "__main__":
    main()
