"""``bench/peers/first_steps.md``：与我们比头几步的两样，照那一页再走一遍；没有的不走。

python-socketio 从 PyPI 装进自己的空环境，Centrifugo 用 ``PATH`` 上的。只换端口；“里添上”并进
``config.json``，“换成”替掉 ``server.py`` 里的两行。页面不开浏览器：它们的脚本在 CDN 上。
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.empty_environment import Environment
from tests.support.ports import free_port
from tests.support.shell import Shell

PAGE: Final = (Path(__file__).parents[3] / "bench" / "peers" / "first_steps.md").read_text()
_BLOCK: Final = re.compile(r"(?:(?P<said>[^\n]*)：\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)
_PORTS: Final = re.compile(r"\b(?:3000|6379|800[0-2]|8080|8300|9000)\b")
_INSTALL: Final = "curl -sSLf https://centrifugal.dev/install.sh | sh"
#: 节点有了连接才去订阅，没有订上时的一条它不补：照着敲的人慢得等得到，机器忙时脚本等不到。
_OTHER_NODE: Final = "python send2.py"
_SUBSCRIBED: Final = """\
for port in 8001 8002; do
    curl -sf -o ready "http://127.0.0.1:$port/socket.io/?EIO=4&transport=polling"
done
until redis-cli -p 6379 pubsub numsub socketio | grep -qx 2; do sleep 0.1; done
"""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def ports() -> dict[str, str]:
    """页上的 → 空着的。"""
    return {port: str(free_port()) for port in sorted(set(_PORTS.findall(PAGE)))}


@pytest.fixture
def shell(tmp_path: Path, ports: dict[str, str]) -> Iterator[Shell]:
    """空环境；里面的 pip 装得到 PyPI 上的。"""
    if missing := [
        name for name in ("redis-server", "redis-cli", "nginx", "curl") if not _which(name)
    ]:
        pytest.skip(f"no {', '.join(missing)}")
    environment = Environment(tmp_path / "environment")
    venv.create(tmp_path / "environment", with_pip=True)
    reached = subprocess.run(
        [environment.python, "-m", "pip", "--quiet", "install", "--retries", "0", "httpx"],
        env=environment.unset,
        capture_output=True,
        text=True,
        check=False,
    )
    if reached.returncode != 0:
        pytest.skip(f"PyPI can not be reached: {reached.stderr[-200:]}")
    folder = tmp_path / "steps"
    folder.mkdir()
    quiet = {"PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    running = Shell(environment, folder, CENTRIFUGO_HTTP_SERVER_PORT=ports["8000"], **quiet)
    yield running
    running.stop()


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def _walked(product: str, shell: Shell, folder: Path, ports: dict[str, str]) -> str:
    """走完那一样的各步；各块打印的，连在一起。"""
    section = PAGE.partition(f"\n## {product}\n")[2].partition("\n## ")[0]
    section = section.replace(_INSTALL, f"cp {shutil.which('centrifugo')} .")
    text = section.replace(_OTHER_NODE, _SUBSCRIBED + _OTHER_NODE)
    printed = ""
    for block in _BLOCK.finditer(_PORTS.sub(lambda port: ports[port[0]], text)):
        if block["kind"] == "sh":
            printed += shell.run(block["text"])
        else:
            _write(folder, block["said"], block["text"])
    return printed


def _write(folder: Path, said: str, text: str) -> None:
    (name,) = re.findall(r"`([\w.]+\.\w+)`", said)
    file = folder / name
    if said.endswith("里添上"):
        text = json.dumps(_merged(json.loads(file.read_text()), json.loads(f"{{{text}}}")))
    elif said.endswith("换成"):
        kept = re.sub(r"^(origins|sio) = .*\n", "", file.read_text(), flags=re.MULTILINE)
        text = kept.replace("import socketio\n", f"import socketio\n\n{text}", 1)
    file.write_text(text)


def _merged(before: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    both = before | added
    for key in before.keys() & added.keys():
        if isinstance(before[key], dict):
            both[key] = _merged(before[key], added[key])
    return both


def test_python_socketio(shell: Shell, tmp_path: Path, ports: dict[str, str]) -> None:
    printed = _walked("python-socketio", shell, tmp_path / "steps", ports)
    assert re.findall(r"'content': '(第一条|两个节点)'", printed) == ["第一条", "两个节点"]
    assert "/page.html" in printed


def test_centrifugo(shell: Shell, tmp_path: Path, ports: dict[str, str]) -> None:
    if shutil.which("centrifugo") is None:
        pytest.skip("no centrifugo on PATH")
    printed = _walked("Centrifugo", shell, tmp_path / "steps", ports)
    assert printed.count('"result":') == 3, printed
    assert '"error"' not in printed
