"""文档的网站（``make site``）：``docs/`` 抄到 ``build/docs``，Zensical 严格地造出 ``build/site``。

没有 CDN：图由 mermaid 画，它从 npm 取来、验过，放在网站自己的文件夹里。指向 ``docs/`` 之外的
链接（源码、配置）在网站上没有去处，成了等宽的路径。
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
BUILD: Final = ROOT / "build"
MERMAID: Final = "mermaid@11.12.0"
_MERMAID_SHA512: Final = (
    "66e755c7bdc1c2b3097c2166492253f38cbabb96eb12857c0ce22d747a2634bc"
    "f7dae06336b7a59bb9a0f795fb83e0ba528407fd6ea604b183103bfbdc977106"
)
_LINK: Final = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)]*)?\)")


def main() -> int:
    pages = BUILD / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(DOCS, pages)
    for page in pages.rglob("*.md"):
        page.write_text(inside_only(page.read_text(), page.relative_to(pages)))
    bring_mermaid(pages / "vendor")
    zensical = Path(sys.executable).with_name("zensical")
    options = ("--strict", "--clean", "--config-file", str(ROOT / "zensical.toml"))
    command = [str(zensical), "build", *options]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 — 都是常量


def inside_only(text: str, page: Path) -> str:
    """``page``：相对 ``docs/`` 的；它链接出 ``docs/`` 的改成等宽的路径。"""

    def mended(link: re.Match[str]) -> str:
        target = os.path.normpath(DOCS / page.parent / link[2])
        if Path(target).is_relative_to(DOCS):
            return link[0]
        path = os.path.relpath(target, ROOT)
        return f"`{path}`" if link[1].strip("`/") in path else f"{link[1]}（`{path}`）"

    return _LINK.sub(mended, text)


def bring_mermaid(folder: Path) -> None:
    """:raises SystemExit: 取不到，或不是那一个"""
    folder.mkdir()
    done = subprocess.run(  # noqa: S603 — 都是常量
        [shutil.which("npm") or "npm", "pack", MERMAID, "--silent", "--pack-destination", BUILD],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"npm could not bring {MERMAID}: {done.stderr.strip()[-200:]}")
    package = BUILD / done.stdout.strip()
    digest = hashlib.sha512(package.read_bytes()).hexdigest()
    if digest != _MERMAID_SHA512:
        raise SystemExit(f"{MERMAID} is not the one we know: sha512 {digest}")
    with tarfile.open(package) as archive:
        source = archive.extractfile("package/dist/mermaid.min.js")
        assert source is not None
        (folder / "mermaid.min.js").write_bytes(source.read())


if __name__ == "__main__":
    sys.exit(main())
