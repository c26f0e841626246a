"""带着的一切：清单是新的、合格的、一样不少；漏洞没有问到就说没有问到。"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from tools.audit import CLEAN, UNKNOWN, VULNERABLE, _judged
from tools.sbom import BILL, PAGE, licence_of, pages

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements" / "runtime.txt"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BILL.read_text())
    return found


@pytest.mark.timeout(240)
def test_the_bill_and_the_page_are_up_to_date() -> None:
    """``make sbom`` 写出的就是提交了的。"""
    for path, text in pages().items():
        assert path.read_text() == text, path


def test_the_bill_is_valid_cyclonedx() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(BILL.read_text()) is None


def test_the_bill_has_the_versions_of_the_lock(bill: dict[str, Any]) -> None:
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK.read_text(), re.MULTILINE))
    listed = {
        canonicalize_name(one["name"]): one["version"]
        for one in bill["components"]
        if one["purl"].startswith("pkg:pypi/")
    }
    assert {name: locked.get(name) for name in listed} == listed


def test_the_page_libraries_and_the_embedded_redis_are_in_it(bill: dict[str, Any]) -> None:
    others = {one["name"] for one in bill["components"] if "pkg:pypi/" not in one["purl"]}
    assert others == {"swagger-ui-dist", "uplot", "valkey-server"}


def test_everything_has_a_licence_and_a_row(bill: dict[str, Any]) -> None:
    page = PAGE.read_text()
    for one in bill["components"]:
        assert f"| `{one['name']}` | {one['version']} | {licence_of(one)} |" in page


def one(name: str, **more: object) -> dict[str, Any]:
    return {"name": name, "version": "1", **more}


HOLE: Final = {"id": "CVE-1", "fix_versions": ["2"]}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([one("a", vulns=[])], CLEAN, "1 of 1 checked, 0 known holes"),
        ([one("a", vulns=[HOLE])], VULNERABLE, "a 1: CVE-1, fixed in 2"),
        ([one("a", vulns=[]), one("b", skip_reason="no b")], UNKNOWN, "not checked: no b"),
        ([], UNKNOWN, "0 of 0 checked, 0 known holes"),
    ],
)
def test_an_audit_that_did_not_look_at_everything_is_not_clean(
    found: list[dict[str, Any]], code: int, said: str
) -> None:
    judged, lines = _judged(found)
    assert judged == code
    assert said in lines


@pytest.mark.timeout(120)
def test_without_its_data_the_audit_says_so(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("idna==3.20\n")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "tools.audit", str(tmp_path / "lock.txt")],
        cwd=ROOT,
        env={**os.environ, **nowhere, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UNKNOWN, done.stdout + done.stderr
    assert "checked" in done.stdout
