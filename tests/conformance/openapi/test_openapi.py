"""C10：OpenAPI 说的是真话：文档合规；外人（schemathesis）照着它提请求，一处不符也没有。"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from openapi_spec_validator import validate

from meeting_push.person_id import PATTERN
from tests.support.accounts import sign
from tests.support.server_process import ServerProcess

ADMIN_ID: Final = 900_100
#: 整个检查的上限；平时一分钟左右。
TIMEOUT_S: Final = 170
#: 登出会吊销检查自己的令牌；一条事件流没有尽头。
LEFT_OUT: Final = "/auth/logout$|^/sse/"
#: 413 也是拒绝；合乎格式的收件人多半不存在（422），所以不查 positive_data_acceptance。
CONFIG: Final = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]
positive_data_acceptance.enabled = false
"""

Operation = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("openapi")) as process:
        yield process


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    answer = httpx.get(f"{server.base_url}/openapi.json", trust_env=False)
    return dict(answer.json())


def operations(document: dict[str, Any]) -> list[tuple[str, Operation]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    return dict(document["components"]["schemas"][name]) if name else schema


def test_c10_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    """C10"""
    validate(document)
    assert document["servers"]


def test_c10_every_error_is_published_as_it_is_sent(document: dict[str, Any]) -> None:
    """C10: 0.1 published ``{detail}`` and sent ``{error}``."""
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or "/readyz" in name:
                continue
            schema = resolved(document, answer["content"]["application/json"]["schema"])
            assert list(schema["properties"]) == ["error"], (name, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_c10_every_operation_says_who_may_and_what_may_go_wrong(document: dict[str, Any]) -> None:
    """C10: security on all, also "nobody in particular"; the statuses of the whole API."""
    for name, operation in operations(document):
        assert "security" in operation, name
        if "/api/v1" in name:
            assert {"401", "403", "422", "429", "500", "503"} <= operation["responses"].keys(), name
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= operation["responses"].keys(), name


def test_c10_metrics_are_text(document: dict[str, Any]) -> None:
    """C10"""
    content = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["text/plain"]


def test_c10_the_limits_of_the_fields_are_published(document: dict[str, Any]) -> None:
    """C10: what is refused for its size can be read before it is sent."""
    body = document["paths"]["/api/v1/messages"]["post"]["requestBody"]
    fields = body["content"]["application/json"]["schema"]["properties"]
    assert (fields["title"]["maxLength"], fields["content"]["maxLength"]) == (200, 65_536)
    assert fields["recipient_ids"]["maxItems"] == 10_000
    number, text = fields["recipient_ids"]["items"]["anyOf"]
    assert number == {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
    assert (text["type"], text["pattern"]) == ("string", PATTERN)
    assert (fields["priority"]["minimum"], fields["priority"]["maximum"]) == (0, 9)


@pytest.mark.timeout(TIMEOUT_S + 10)
def test_c10_a_stranger_who_believes_the_document_is_never_surprised(
    server: ServerProcess, tmp_path: Path
) -> None:
    """C10, C4: schemathesis over the real server: no 500, no undeclared answer, all refusals."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    token = sign(ADMIN_ID, "admin", "admin")
    ran = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)),
            *("run", f"{server.base_url}/openapi.json", "-H", f"Authorization: Bearer {token}"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "1"),
            *("--exclude-path-regex", LEFT_OUT, "--suppress-health-check", "all"),
            *("--no-shrink", "--continue-on-failure", "--warnings", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, "\n".join(line[:300] for line in ran.stdout.splitlines())
    assert "request_failed" not in server.output
