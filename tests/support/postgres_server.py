"""测试用的真实 PostgreSQL：临时数据目录，只听目录里的 unix 套接字。"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from .child import Child, as_user
from .eventually import wait_until

_SUPERUSER: Final = "postgres"
#: 丢了也无妨的数据：不等磁盘。
_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgresServer:
    """一个 PostgreSQL 实例；目录 0700，所以 trust 认证不会把它开放给同机的别人。"""

    def __init__(self, bin_dir: Path) -> None:
        self._bin = bin_dir
        self._user = _unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="meeting-push-pg-"))
        self._child: Child | None = None

    def start(self, timeout: float = 30.0) -> Self:
        """initdb，启动，等到它接受连接。"""
        try:
            self._initialise()
            self._child = Child(
                self._command(),
                self.directory / "server.log",
                user=self._user,
                cwd=self.directory,
                on_parent_death=signal.SIGINT,  # 快速关闭：顺便释放它的共享内存
            )
            wait_until(self._is_ready, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """结束它并删除数据；可重复调用。"""
        if self._child is not None:
            self._child.stop(signal.SIGINT)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    def create_database(self, template: str = "") -> str:
        """建一个库，返回它的 ``postgresql+asyncpg://`` URL。

        :param template: 抄哪个库，它的 URL；此刻没有人连着它。不给就是空的
        """
        name = f"test_{uuid4().hex[:12]}"
        self._client("createdb", *(("-T", _name(template)) if template else ()), name)
        return f"postgresql+asyncpg://{_SUPERUSER}@/{name}?host={self.directory}"

    def drop_database(self, url: str) -> None:
        """删掉 ``create_database`` 建的库，即使还有连接。"""
        self._client("dropdb", "--force", _name(url))

    def execute(self, statement: str) -> None:
        """以超级用户执行一句，不在事务里（``ALTER SYSTEM`` …）。"""
        self._client("psql", "-q", "-d", _SUPERUSER, "-c", statement)

    def _initialise(self) -> None:
        if self._user is not None:
            shutil.chown(self.directory, self._user)
        initdb = [str(self._bin / "initdb"), "-D", str(self.directory / "data")]
        self._run(
            [*as_user(self._user), *initdb, "-U", _SUPERUSER, "-A", "trust", "-E", "UTF8", "-N"]
        )

    def _command(self) -> list[str]:
        settings = (*_FAST, "listen_addresses=", f"unix_socket_directories={self.directory}")
        options = [part for setting in settings for part in ("-c", setting)]
        return [str(self._bin / "postgres"), "-D", str(self.directory / "data"), *options]

    def _is_ready(self) -> bool:
        assert self._child is not None
        assert self._child.running, f"postgres exited:\n{self._child.output}"
        probe = [str(self._bin / "pg_isready"), "-q", "-h", str(self.directory)]
        return subprocess.run(probe, check=False).returncode == 0

    def _client(self, program: str, *arguments: str) -> None:
        where = ("-h", str(self.directory), "-U", _SUPERUSER)
        self._run([str(self._bin / program), *where, *arguments])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def find_postgres() -> Path | None:
    """含 ``postgres``、``initdb`` 的目录：PATH 上的，否则 Debian 安放处版本最高的。"""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])
    )
    return installed[-1].parent if installed else None


def _unprivileged_user() -> str | None:
    """PostgreSQL 拒绝以 root 运行：root 时换成谁；否则 None（就是自己）。"""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return _SUPERUSER if _SUPERUSER in names else "nobody"
