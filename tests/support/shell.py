"""文档里的 sh 块：在一个一直开着的 bash 里，一块一块地照抄着跑。"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import psutil

from .empty_environment import Environment


class Shell:
    """在 ``folder`` 里；块出错就结束（``bash -e``）。留在后台的由 ``stop`` 收拾。"""

    def __init__(self, environment: Environment, folder: Path, **variables: str) -> None:
        unset = environment.unset
        path = f"{environment.bin}:/usr/sbin:{unset['PATH']}"
        self._folder = folder
        self._bash = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=unset | {"PATH": path} | variables,
            start_new_session=True,
        )
        assert self._bash.stdin is not None
        self._bash.stdin.write("trap 'echo; echo --failed--' EXIT\n")

    def run(self, block: str) -> str:
        """``block`` 打印的。

        :raises AssertionError: 它里面有一条命令失败了
        """
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{block}\necho; echo --ended--\n")
        self._bash.stdin.flush()
        lines = list[str]()
        for line in self._bash.stdout:
            if line == "--ended--\n":
                return "".join(lines)
            if line == "--failed--\n":  # 留在后台的可能还拿着管道：读不到头
                break
            lines.append(line)
        logs = [f"{log.name}: {log.read_text()[-500:]}" for log in self._folder.glob("*.log")]
        raise AssertionError(f"{block} ended the shell: {''.join(lines)} {logs}")

    def stop(self) -> None:
        """bash 已经出错走了也一样：它起的都在它的进程组里。"""
        family = [each for each in psutil.process_iter() if _group(each.pid) == self._bash.pid]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # 这会儿走了
                process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._bash.communicate()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:  # 这会儿走了
        return None
