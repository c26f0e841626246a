"""测试用的真实 PostgreSQL：临时数据目录，只听目录里的 unix 套接字。"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from .child import Child, as_user
from .eventually import wait_until

_SUPERUSER: Final = "postgres"
#: 丢了也无妨的数据：不等磁盘。
_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

#: 请走还连着的，倒空有行的表，序列从头数；末一行是这个库此刻的样子：定义、统计、设置、还有的行。
#: ``{kept}``：模板里就有行的表，不倒空，也算在样子里。
_CLEAN: Final = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE one text; filled boolean;
BEGIN
  FOR one IN SELECT quote_ident(relname) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> ALL ({kept})
  LOOP
    EXECUTE 'SELECT EXISTS (SELECT FROM ' || one || ')' INTO filled;
    IF filled THEN EXECUTE 'TRUNCATE ' || one || ' CASCADE'; END IF;
  END LOOP;
END $$;
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
  FROM pg_sequences WHERE last_value IS NOT NULL;
WITH mine AS (
  SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
), parts AS (
  SELECT concat_ws(' ', 'c', relname, relkind, relchecks, reloptions) AS part FROM mine
  UNION ALL SELECT concat_ws(' ', 'a', relname, attname, atttypid, attnotnull, atthasdef)
    FROM pg_attribute JOIN mine ON mine.oid = attrelid
  UNION ALL SELECT concat_ws(' ', 'k', conname, convalidated)
    FROM pg_constraint JOIN mine ON mine.oid = conrelid
  UNION ALL SELECT concat_ws(' ', 't', tgname, tgenabled)
    FROM pg_trigger JOIN mine ON mine.oid = tgrelid
  UNION ALL SELECT concat_ws(' ', 's', relname, staattnum)
    FROM pg_statistic JOIN mine ON mine.oid = starelid
  UNION ALL SELECT concat_ws(' ', 'p', proname)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', 'n', nspname) FROM pg_namespace
  UNION ALL SELECT concat_ws(' ', 'd', setconfig) FROM pg_db_role_setting
  {rows}
) SELECT md5(string_agg(part, E'\\n' ORDER BY part)) FROM parts;
"""
_FILLED: Final = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
  AND (xpath('//c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I', relname),
       false, true, '')))[1]::text <> '0';
"""


class PostgresServer:
    """一个 PostgreSQL 实例；目录 0700，所以 trust 认证不会把它开放给同机的别人。"""

    def __init__(self, bin_dir: Path) -> None:
        self._bin = bin_dir
        self._user = _unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="meeting-push-pg-"))
        self._child: Child | None = None
        #: 模板 → 收拾它的那份的 SQL，它该有的样子，闲着的。
        self._shelves: dict[str, _Shelf] = {}

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

    def lend(self, template: str) -> str:
        """一个与 ``template`` 一样的库：还回来过的，或新抄一份（抄一份、删一份要五分之一秒）。"""
        if template not in self._shelves:
            self._shelves[template] = self._shelf(template)
        idle = self._shelves[template].idle
        return idle.pop() if idle else self.create_database(template)

    def take_back(self, url: str, template: str) -> None:
        """``lend`` 借出的：倒空了与新的一样就留着再借，不一样（改了定义、统计过…）就删掉。"""
        shelf = self._shelves[template]
        if self._cleaned(url, shelf.clean) == shelf.looks:
            shelf.idle.append(url)
        else:
            self.drop_database(url)

    def _shelf(self, template: str) -> _Shelf:
        url = self.create_database(template)
        kept = self._query(url, _FILLED).split()
        rows = "".join(
            f"UNION ALL SELECT concat_ws(' ', 'r', '{one}', x::text) FROM public.{one} x "
            for one in kept
        )
        names = ", ".join(f"'{one}'" for one in kept)
        clean = _CLEAN.format(kept=f"ARRAY[{names}]::text[]", rows=rows)
        return _Shelf(clean, self._cleaned(url, clean), [url])

    def _cleaned(self, url: str, clean: str) -> str:
        """它此刻的样子；连倒空都做不成的（少了一张表）没有样子。"""
        try:
            return self._query(url, clean).splitlines()[-1]
        except AssertionError:
            return ""

    def _query(self, url: str, statements: str) -> str:
        return self._client("psql", "-q", "-At", "-d", _name(url), "-c", statements)

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

    def _client(self, program: str, *arguments: str) -> str:
        where = ("-h", str(self.directory), "-U", _SUPERUSER)
        return self._run([str(self._bin / program), *where, *arguments])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
        return done.stdout


@dataclass
class _Shelf:
    """借还同一个模板的库；``looks`` 是刚抄好的样子。"""

    clean: str
    looks: str
    idle: list[str]


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
