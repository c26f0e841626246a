"""契约的页（docs/contract.md）与代码：命令、调用、帧、默认值，不多不少。"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import typer
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from meeting_push.app import MeetingPush
from meeting_push.cli import app as command_line
from meeting_push.protocol import frames
from meeting_push.settings import FLAT, load_settings
from tests.support.citations import DOCS

TEXT: Final = (DOCS / "contract.md").read_text()
API: Final = "/api/v1"


def section(title: str) -> str:
    """一节，到下一个同级或更高的标题为止。"""
    found = re.search(rf"^(#+) {title}\n(.*?)(?=^#{{1,2}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[2]


def test_every_rest_call_has_a_row_and_every_row_is_a_call(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1")
    push = MeetingPush(settings, identity="accounts")
    real = {
        (f"{method} {route.path.removeprefix(API)}", frozenset(_query(route.dependant)))
        for route in (*push.router.routes, *push.probes.routes)
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    calls = re.findall(r"`((?:GET|POST|DELETE) /[\w/{}.-]*)(?:\?([\w=&]+))?", section("REST"))
    assert {(call, frozenset(re.findall(r"(\w+)=", query))) for call, query in calls} == real


def _query(dependant: Dependant) -> Iterator[str]:
    """一个调用的查询参数，连同它的依赖要的。"""
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query(each)


@pytest.mark.parametrize(
    ("direction", "spliced", "base"),
    [
        ("服务器 → 客户端", {"new_message", "batch"}, frames.ServerFrame),
        ("客户端 → 服务器", set[str](), frames.ClientFrame),
    ],
)
def test_every_frame_is_listed(
    direction: str, spliced: set[str], base: type[msgspec.Struct]
) -> None:
    (row,) = re.findall(rf"^\| {direction} \| (.+) \|$", section("用户 WebSocket"), re.MULTILINE)
    tags = {
        kind.__struct_config__.tag
        for kind in base.__subclasses__()
        if kind.__module__ == frames.__name__
    }
    assert set(re.findall(r"`(\w+)`", row)) == tags | spliced


def test_every_command_has_a_row() -> None:
    def leaves(command: Any, name: str) -> Iterator[str]:
        below = getattr(command, "commands", {})
        if not below:
            yield name
        for word, child in below.items():
            if word != "bench":  # 另一个发行包的
                yield from leaves(child, f"{name} {word}")

    written = set(re.findall(r"`(meeting-push(?: [a-z]+)+)", section("命令行")))
    real = set(leaves(typer.main.get_command(command_line), "meeting-push"))
    assert written - {"meeting-push bench"} == real


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", section("上限"))))
)
def test_every_setting_it_names_exists(name: str) -> None:
    assert name in FLAT


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_recipients", "10,000"),
        ("max_batch_messages", "1,000"),
        ("max_title_chars", "200 字"),
        ("sends_per_user_per_s", "1,000 份/s"),
        ("sends_per_user_burst", "50,000"),
        ("max_devices_per_user", "200"),
        ("max_connections_per_address", "10,000 条"),
        ("max_http_connections_per_address", "1,000 条"),
        ("mailbox_max_entries", "1,000 条"),
        ("message_log_max_entries", "1,000 条"),
        ("bad_frame_limit", "20 个"),
        ("heartbeat_interval_s", "30 秒"),
        ("heartbeat_timeout_s", "60 秒"),
        ("ws_ticket_ttl_s", "30 秒"),
    ],
)
def test_a_default_is_what_the_page_says(name: str, text: str) -> None:
    (row,) = [line for line in section("上限").splitlines() if f"`{name}`" in line]
    assert text in row
    number = float(re.sub(r"[^\d]", "", text))
    assert FLAT[name].info.default == number
