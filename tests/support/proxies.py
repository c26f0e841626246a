"""``deploy/proxies/`` 里的三份配置，照抄，只换地址，在真的代理里跑。"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .child import Child
from .eventually import wait_until
from .ports import free_port
from .server_process import answers

EXAMPLES: Final = Path(__file__).parents[2] / "deploy" / "proxies"


@dataclass(frozen=True)
class Proxy:
    """``command``：其中的 ``{folder}``、``{file}`` 换成真的；``listen``：例子里的地址，我们的。"""

    name: str
    example: str
    command: tuple[str, ...]
    listen: tuple[str, str]
    trimmed: tuple[tuple[str, str], ...] = ()

    @property
    def binary(self) -> str | None:
        return shutil.which(self.command[0], path=f"{os.environ['PATH']}:/usr/sbin")

    @contextmanager
    def running(self, folder: Path, text: str) -> Iterator[str]:
        """以 ``text`` 为配置，只换它听的地址；给出这个地址，后面的答得了话才回来。"""
        assert self.binary is not None
        port, file = free_port(), folder / self.example
        file.write_text(self._trimmed(text, port))
        arguments = [part.format(folder=folder, file=file) for part in self.command[1:]]
        child = Child([self.binary, *arguments], folder / f"{self.name}.log", cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(address), 20)
            yield address
        finally:
            child.stop()

    def _trimmed(self, text: str, port: int) -> str:
        found, ours = self.listen
        for old, new in ((found, ours.format(port=port)), *self.trimmed):
            assert old in text, (self.name, old)
            text = text.replace(old, new)
        return text


#: 描述符的数目改小：测试的机器不让要那么多。
PROXIES: Final = (
    Proxy(
        "nginx",
        "nginx.conf",
        (
            *("nginx", "-p", "{folder}", "-c", "{file}", "-g"),
            "daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;",
        ),
        ("listen 8080;", "listen 127.0.0.1:{port}; access_log off;"),
        (
            ("worker_rlimit_nofile 200000", "worker_rlimit_nofile 1000"),
            ("worker_connections 100000", "worker_connections 500"),
        ),
    ),
    Proxy(
        "haproxy",
        "haproxy.cfg",
        ("haproxy", "-db", "-f", "{file}"),
        ("bind :8080", "bind 127.0.0.1:{port}"),
        (("maxconn 200000", "maxconn 500"),),
    ),
    Proxy(
        "caddy",
        "Caddyfile",
        ("caddy", "run", "--adapter", "caddyfile", "--config", "{file}"),
        (":8080 {", "{{\n\tadmin off\n}}\nhttp://127.0.0.1:{port} {{"),
    ),
)


def in_front(
    proxy: Proxy, folder: Path, gateways: list[int], apis: list[int]
) -> AbstractContextManager[str]:
    """例子照抄，只换地址。"""
    text = (EXAMPLES / proxy.example).read_text()
    for number, (gateway, api) in enumerate(zip(gateways, apis, strict=True), 1):
        text = text.replace(f"10.0.0.1{number}:8000", f"127.0.0.1:{gateway}")
        text = text.replace(f"10.0.0.2{number}:8000", f"127.0.0.1:{api}")
    assert not re.search(r"10\.0\.0\.[12]\d:8000", text)
    return proxy.running(folder, text)
