"""测试用的真实 PgBouncer，按事务复用连接。"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from .child import Child
from .eventually import wait_until
from .ports import free_port
from .postgres_server import PostgresServer


def find_pgbouncer() -> Path | None:
    found = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    return None if found is None else Path(found)


@contextlib.contextmanager
def running_pgbouncer(postgres: PostgresServer, directory: Path) -> Iterator[int]:
    """产出它在 127.0.0.1 上的端口；后面只有两条连接，所以事务真的轮流用它们。"""
    binary = find_pgbouncer()
    assert binary is not None
    port, config = free_port(), directory / "pgbouncer.ini"
    config.write_text(
        f"""[databases]
* = host={postgres.directory} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 500
"""
    )
    user = "postgres" if directory.owner() == "root" else None
    for path in (directory, config):
        if user is not None:
            shutil.chown(path, user)
    child = Child([str(binary), str(config)], directory.parent / "pgbouncer.log", user=user)
    try:
        wait_until(lambda: _accepts(port, child), 10)
        yield port
    finally:
        child.stop()


def _accepts(port: int, child: Child) -> bool:
    assert child.running, child.output
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
