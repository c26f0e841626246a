"""docs/architecture.md：凭它一页，每一样要加的东西都找得到去处。"""

from __future__ import annotations

import re
import tomllib
from typing import Final

import pytest

from tests.support.citations import DOCS, ROOT

PACKAGE: Final = ROOT / "src" / "meeting_push"
TEXT: Final = (DOCS / "architecture.md").read_text()

#: 十来个想得到的改动 → 页上的哪一行，以及那一行必须说出的去处。
CHANGES: Final = {
    "信箱里的条目数一次取一百个人的": ("一条 Redis 命令", ["redis/mailboxes.py"]),
    "静音：客户端说它要静音多久": (
        "一种用户帧",
        [
            "protocol/frames.py",
            "protocol/session.py",
            "websocket/requests.py",
            "docs/asyncapi.yaml",
            "client/wire.py",
        ],
    ),
    "列出发过的消息": (
        "一个 REST 调用",
        ["assembly/routes.py", "docs/contract.md", "client/rest_client.py"],
    ),
    "数一数压缩了多少正文": ("一个指标", ["monitoring/metrics.py", "assembly/observation.py"]),
    "信箱多久没人来就提醒": ("一个设置", ["settings.py"]),
    "每天清掉很久以前的消息": ("一个循环", ["supervision.py", "assembly/"]),
    "命令行上列出死信": ("一条命令", ["cli.py", "docs/contract.md"]),
    "节点满了时的关闭码": (
        "一个关闭码",
        ["protocol/codes.py", "docs/asyncapi.yaml", "tests/system/connections/test_close_codes.py"],
    ),
    "一步移出几条信箱的脚本": ("一段 Lua", ["redis/lua/", "redis/lean.py"]),
    "给消息加上归档的时刻": (
        "一张表、一列",
        ["storage/tables.py", "storage/migrations/versions/", "storage/migration.py"],
    ),
    "压一压一万个静音的设备": (
        "一个压测 profile",
        ["bench/src/meeting_push_bench/load/plan.py", "bench/README.md"],
    ),
}


def where(change: str) -> list[str]:
    """“新的东西放哪里”里 ``change`` 那一行点名的路径。"""
    (row,) = re.findall(rf"^\| {change} \| (.+) \|$", TEXT, re.MULTILINE)
    return re.findall(r"`([\w./*-]*(?:/|\.\w+))`", row)


@pytest.mark.parametrize(("change", "homes"), CHANGES.values(), ids=CHANGES)
def test_a_newcomer_finds_where_a_change_belongs(change: str, homes: list[str]) -> None:
    named = where(change)
    assert [home for home in homes if home not in named] == []


def missing(named: list[str]) -> list[str]:
    """``named`` 里既不在包里也不在仓库里的；``*`` 是任一个。"""
    return [name for name in named if not [*PACKAGE.glob(name), *ROOT.glob(name)]]


PLACES: Final = TEXT.partition("## 新的东西放哪里")[2].partition("\n## ")[0]


@pytest.mark.parametrize("change", re.findall(r"^\| ([^|]+) \| .*`.* \|$", PLACES, re.MULTILINE))
def test_every_place_exists(change: str) -> None:
    assert where(change)
    assert missing(where(change)) == []


def test_a_place_that_is_not_there_is_found() -> None:
    assert missing(["cli.py", "router/*_manage.py", "nowhere.py", "nowhere/"]) == [
        "nowhere.py",
        "nowhere/",
    ]


def test_every_room_has_its_sentence_and_every_sentence_a_room() -> None:
    rooms = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")} | {"web/"}
    table = TEXT.partition("## 房间")[2].partition("## 谁可以认识谁")[0]
    assert set(re.findall(r"^\| `(\w+/)` \| .+ \|$", table, re.MULTILINE)) == rooms


def test_the_order_of_imports_is_the_one_that_is_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [re.sub(r"[()]", "", layer) for layer in contracts["contracts"][0]["layers"]]
    (drawn,) = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
    assert drawn.splitlines() == layers
