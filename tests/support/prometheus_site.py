"""真的 Prometheus 与 Alertmanager（Debian 的包），用生成的三个文件，只把地址与快慢换成这里的。"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from meeting_push.monitoring.alerts.config import load_alerts
from tools.prometheus_files import files

from .child import Child
from .eventually import wait_until
from .ports import free_port

START_S = 30.0


class PrometheusSite:
    """``rules``：我们的告警文件；``target``：抓哪个端口；``token``：管理员的。没有装就跳过。

    ``hasten=False``：快慢照生成的。
    """

    def __init__(
        self, folder: Path, rules: Path, target: int, token: str, *, hasten: bool = True
    ) -> None:
        folder.mkdir()
        self._folder = folder
        self._prometheus, self._alertmanager = free_port(), free_port()
        self._write(files(load_alerts(rules).rules), target)
        (folder / "meeting-push.token").write_text(token)
        if not hasten:
            return
        self._hasten("prometheus.yml", "global", scrape_interval="1s", evaluation_interval="1s")
        self._hasten("alertmanager.yml", "route", group_wait="1s", group_interval="1s")

    def _write(self, texts: dict[str, str], target: int) -> None:
        for name, text in texts.items():
            here = text.replace("127.0.0.1:9093", f"127.0.0.1:{self._alertmanager}")
            here = here.replace("127.0.0.1:8000", f"127.0.0.1:{target}")
            (self._folder / name).write_text(here)

    def _hasten(self, name: str, section: str, **changes: str) -> None:
        path = self._folder / name
        found: Any = yaml.safe_load(path.read_text())
        found[section].update(changes)
        found.pop("inhibit_rules", None)
        path.write_text(yaml.safe_dump(found))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            self._start(
                stack,
                self._alertmanager,
                *("prometheus-alertmanager", "--config.file=alertmanager.yml"),
                *("--storage.path=alertmanager", "--cluster.listen-address="),
            )
            self._start(
                stack,
                self._prometheus,
                *("prometheus", "--config.file=prometheus.yml"),
                "--storage.tsdb.path=prometheus",
            )
            wait_until(lambda: self.ask("up == 1"), START_S)  # 起来之后 5 秒才发现要抓谁
            yield

    def ask(self, expression: str) -> list[Any]:
        """此刻的各条序列；写错了的式子是 ``AssertionError``。"""
        address = f"http://127.0.0.1:{self._prometheus}/api/v1/query"
        answer = httpx.get(address, params={"query": expression}, trust_env=False)
        assert answer.is_success, answer.text
        return list(answer.json()["data"]["result"])

    def _start(self, stack: contextlib.ExitStack, port: int, name: str, *options: str) -> None:
        program = shutil.which(name)
        if program is None:
            pytest.skip(f"no {name} on PATH")
        address = f"--web.listen-address=127.0.0.1:{port}"
        log = self._folder / f"{name}.log"
        child = Child([program, *options, address], log, cwd=self._folder)
        stack.callback(lambda: print(child.output))
        stack.callback(child.stop)
        wait_until(lambda: _is_ready(port), START_S)


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False
