"""测试启动的一个子进程：随 pytest 一起消失，不留下任何后代。"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class Child:
    """运行 ``command``，标准输出与错误都追加到 ``log``。

    pytest 被 ``kill -9`` 时内核发给它 ``on_parent_death``（PR_SET_PDEATHSIG）。这个信号
    其实跟着*创建它的线程*：不要在 ``asyncio.to_thread`` 里创建。用 setpriv 而不用
    ``preexec_fn``：后者在多线程进程里从 3.12 起告警。没有 setpriv 的系统只靠 ``stop``。
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        on_parent_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.log = log
        self._descendants: set[psutil.Process] = set()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*as_user(user, on_parent_death), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,  # 终端里的 Ctrl-C 只给 pytest
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """发一个信号；已经退出的进程不受影响。"""
        self._process.send_signal(number)

    def kill(self) -> None:
        """只对主进程 ``kill -9``，等它消失；它的后代如何是被测的事（``stop`` 时才清）。"""
        self._remember_descendants()
        self._process.kill()
        self._process.wait()

    def terminate(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> int:
        """发信号并等它退出，返回退出码。

        :raises subprocess.TimeoutExpired: 到时还没有退出；进程仍在
        """
        self._remember_descendants()
        self.send(number)
        return self._process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> None:
        """无论如何都要结束：先请，到时 ``kill -9``，最后清掉剩下的后代。可重复调用。"""
        try:
            self.send(signal.SIGCONT)  # 暂停着的进程收不到别的信号
            self.terminate(number, timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            self._kill_descendants()

    def _remember_descendants(self) -> None:
        if self.running:
            self._descendants.update(psutil.Process(self.pid).children(recursive=True))

    def _kill_descendants(self) -> None:
        for process in self._descendants:
            if process.is_running():  # psutil 以启动时刻辨认，不会误杀复用了 pid 的进程
                process.kill()
        psutil.wait_procs(self._descendants, timeout=5)
        self._descendants.clear()


def as_user(user: str | None, on_parent_death: signal.Signals | None = None) -> list[str]:
    """命令前缀：换成 ``user``（需要 root），并随父进程消失。"""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv]
    if user is not None:
        prefix += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    if on_parent_death is not None:
        prefix.append(f"--pdeathsig={on_parent_death.name.removeprefix('SIG')}")
    return prefix if len(prefix) > 1 else []
