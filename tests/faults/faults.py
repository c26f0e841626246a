"""弄坏 Redis 或 PostgreSQL 的办法；离开时修好。都作用于整支舰队。"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from redis import Redis

from tests.support.eventually import wait_until
from tests.support.postgres_server import find_postgres

from .fleet import Fleet


@contextlib.contextmanager
def redis_admin(fleet: Fleet) -> Iterator[Redis]:
    """不经代理的一条管理连接。"""
    with Redis(port=fleet.redis.port, single_connection_client=True) as admin:
        yield admin


def do(admin: Redis, *command: str) -> None:
    admin.execute_command(*command)  # type: ignore[no-untyped-call]


def _psql(fleet: Fleet) -> list[str]:
    bin_dir = find_postgres()
    assert bin_dir is not None
    name = fleet.database_url.partition("?")[0].rpartition("/")[2]
    where = ("-h", str(fleet.postgres.directory), "-U", "postgres", "-d", name)
    return [str(bin_dir / "psql"), "-q", "-v", "ON_ERROR_STOP=1", *where]


def sql(fleet: Fleet, *statements: str) -> str:
    """以超级用户执行，不经代理；返回打印的。"""
    commands = [part for statement in statements for part in ("-c", statement)]
    # 只读的默认对它自己不算
    env = os.environ | {"PGOPTIONS": "-c default_transaction_read_only=off -c statement_timeout=0"}
    done = subprocess.run(
        [*_psql(fleet), "-At", *commands], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout


@contextlib.contextmanager
def oom(fleet: Fleet) -> Iterator[None]:
    with redis_admin(fleet) as admin:
        admin.config_set("maxmemory", "1mb")
        yield
        admin.config_set("maxmemory", 0)


@contextlib.contextmanager
def replica(fleet: Fleet) -> Iterator[None]:
    """被降为副本（主不在）：读得到，写不进。"""
    with redis_admin(fleet) as admin:
        do(admin, "REPLICAOF", "127.0.0.1", "1")
        yield
        do(admin, "REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def forbidden(fleet: Fleet) -> Iterator[None]:
    """有人收走了脚本与频道的权限。"""
    with redis_admin(fleet) as admin:
        do(admin, "ACL", "SETUSER", "default", "resetchannels", "-@scripting")
        yield
        do(admin, "ACL", "SETUSER", "default", "allchannels", "+@all")


@contextlib.contextmanager
def disk_full(fleet: Fleet) -> Iterator[None]:
    """存不了快照（这里挡着一个同名的目录），Redis 就拒绝一切写入（MISCONF）。"""
    in_the_way = fleet.redis.directory / "dump.rdb"
    in_the_way.mkdir()
    with redis_admin(fleet) as admin:
        admin.config_set("save", "3600 1")
        admin.bgsave()
        wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", 10)
        yield
        admin.config_set("save", "")
    in_the_way.rmdir()


@contextlib.contextmanager
def redis_hung(fleet: Fleet) -> Iterator[None]:
    fleet.redis.pause()
    yield
    fleet.redis.resume()


@contextlib.contextmanager
def writes_paused(fleet: Fleet) -> Iterator[None]:
    """CLIENT PAUSE WRITE：读有回答，写没有。"""
    with redis_admin(fleet) as admin:
        do(admin, "CLIENT", "PAUSE", "600000", "WRITE")
        yield
        do(admin, "CLIENT", "UNPAUSE")


@contextlib.contextmanager
def redis_gone(fleet: Fleet) -> Iterator[None]:
    for node in fleet.nodes:
        node.redis.refuse()
    yield
    for node in fleet.nodes:
        node.redis.release()


@contextlib.contextmanager
def sql_locked(fleet: Fleet, table: str = "mp_message_recipients") -> Iterator[None]:
    """有人锁着表不放（一次没完的迁移、备份）；读得到，写不进。"""
    holder = subprocess.Popen(_psql(fleet), stdin=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    holder.stdin.write(f"BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE;\n")
    holder.stdin.flush()
    held = (
        "SELECT count(*) FROM pg_locks"
        " WHERE granted AND mode = 'ExclusiveLock' AND relation IS NOT NULL"
    )
    wait_until(lambda: int(sql(fleet, held)) > 0, 10)
    yield
    holder.stdin.close()
    holder.wait(10)


@contextlib.contextmanager
def _postgres_setting(fleet: Fleet, setting: str, value: str) -> Iterator[None]:
    sql(fleet, f"ALTER SYSTEM SET {setting} = {value}", "SELECT pg_reload_conf()")
    yield
    sql(fleet, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")


def sql_readonly(fleet: Fleet) -> contextlib.AbstractContextManager[None]:
    return _postgres_setting(fleet, "default_transaction_read_only", "on")


def sql_too_slow(fleet: Fleet) -> contextlib.AbstractContextManager[None]:
    """时限短到什么也做不完。"""
    return _postgres_setting(fleet, "statement_timeout", "'1ms'")


@contextlib.contextmanager
def sql_hung(fleet: Fleet) -> Iterator[None]:
    for node in fleet.nodes:
        node.sql.hold()
    yield
    for node in fleet.nodes:
        node.sql.release()


@contextlib.contextmanager
def sql_gone(fleet: Fleet) -> Iterator[None]:
    for node in fleet.nodes:
        node.sql.refuse()
    yield
    for node in fleet.nodes:
        node.sql.release()


@dataclass(frozen=True)
class Fault:
    """``cause``：``/readyz`` 里该说的原因。"""

    name: str
    breaking: Callable[[Fleet], contextlib.AbstractContextManager[None]]
    cause: str


REDIS_FAULTS: Final = (
    Fault("oom", oom, "oom"),
    Fault("replica", replica, "readonly"),
    Fault("disk_full", disk_full, "disk_full"),
    Fault("forbidden", forbidden, "noperm"),
    Fault("hung", redis_hung, "timeout"),
    Fault("writes_paused", writes_paused, "timeout"),
    Fault("gone", redis_gone, "unreachable"),
)
SQL_FAULTS: Final = (
    Fault("locked", sql_locked, "timeout"),
    Fault("users_locked", lambda fleet: sql_locked(fleet, "mp_users"), "timeout"),
    Fault("readonly", sql_readonly, "readonly"),
    Fault("statement_timeout", sql_too_slow, "timeout"),
    Fault("hung", sql_hung, "timeout"),
    Fault("gone", sql_gone, "unreachable"),
)
