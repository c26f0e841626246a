"""JavaScript SDK 里不要 Node 就核对得了的：帧的类型与 asyncapi.yaml 一致，浏览器里的那份不大。"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml

from meeting_push.version import __version__
from tools import typescript_frames

ROOT: Final = Path(__file__).parent.parent
SDK: Final = ROOT / "clients" / "js"
WEB: Final = files("meeting_push") / "web"
MAX_CORE_BYTES: Final = 12 * 1024


def test_the_types_of_the_frames_are_those_of_the_document() -> None:
    """``python tools/typescript_frames.py``，然后 ``npm run build``。"""
    assert (SDK / "src" / "frames.ts").read_text() == typescript_frames.page()


def test_every_user_frame_of_the_document_has_a_type() -> None:
    document = yaml.safe_load(typescript_frames.SOURCE.read_text())
    channel = document["channels"]["userMessages"]["messages"]
    page = (SDK / "src" / "frames.ts").read_text()
    assert all(f'type: "{name}";' in page for name in channel)


def test_the_core_is_at_most_12_kb_on_the_wire() -> None:
    for name in ("meeting-push.js", "meeting-push.iife.js"):
        assert len(gzip.compress((WEB / name).read_bytes(), 9)) <= MAX_CORE_BYTES, name


def test_the_package_has_the_version_of_the_server_and_no_dependency() -> None:
    package = json.loads((SDK / "package.json").read_text())
    assert package["version"] == __version__
    assert "dependencies" not in package
    assert f"meeting-push {__version__}" in (WEB / "meeting-push.js").read_text()[:100]
