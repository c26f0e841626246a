"""docs/architecture.md：凭它一页，每一样要加的东西都找得到去处；它说的边界，代码守着。"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.citations import DOCS, ROOT

PACKAGE: Final = ROOT / "src" / "meeting_push"
FILES: Final = sorted(PACKAGE.rglob("*.py"))
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
    "信箱多久没人来就提醒": ("一个设置", ["settings/stations.py", "docs/settings.md"]),
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


def test_no_module_is_longer_than_400_lines() -> None:
    long = [path.name for path in PACKAGE.rglob("*.py") if path.read_text().count("\n") > 400]
    assert long == []


# ── tests/unit 只有一个进程 ─────────────────────────────────────────────────

#: 起进程的；它们的测试在 tests/system。Redis 与 PostgreSQL 由共用的夹具起。
STARTERS: Final = {
    *("subprocess", "multiprocessing", "Popen", "fork", "create_subprocess_exec"),
    *("create_subprocess_shell", "ServerProcess", "Child", "house", "pair", "pgbouncer"),
    *("forked_workers", "empty_environment", "own_server", "launch", "LoadProcess"),
}


def starters_in(source: str) -> set[str]:
    """导入的名字、模块里的名字之中，起进程的。"""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.alias(name=name) | ast.ImportFrom(module=str(name)):
                named.update(name.split("."))
            case ast.Attribute(attr=name):
                named.add(name)
    return named & STARTERS


def test_unit_tests_start_no_process() -> None:
    unit = ROOT / "tests" / "unit"
    found = {path: starters_in(path.read_text()) for path in unit.rglob("*.py")}
    assert {str(path.relative_to(unit)): names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from tests.support.server_process import ServerProcess",
        "from tests.support.pair import node_of",
        "from tests.support.house import house_fixture",
        "await asyncio.create_subprocess_exec(*command)",
    ],
)
def test_a_unit_test_that_starts_a_process_is_found(source: str) -> None:
    assert starters_in(source)


def _home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


# ── redis/ 的边界 ────────────────────────────────────────────────────────────

#: storage/ 里的 execute 是 SQL；它与 redis/ 互不认识，由分层的契约看着。
ROOMS: Final = [path for path in FILES if _home(path) not in {"redis", "storage"}]
#: 发命令、跑 Lua 的写法：两种连接只许原样递给 redis/ 里的名词。
COMMAND: Final = re.compile(
    r"(\.execute(_many|_command)?|\blean\.\w+|\bredis\.client\.\w+|\bScript)$"
)
#: 我们的错误，与会接住它们的。
ERRORS: Final = {"Exception", "BaseException"} | {
    node.name
    for name in ("errors.py", "redis/link.py")
    for node in ast.walk(ast.parse((PACKAGE / name).read_text()))
    if isinstance(node, ast.ClassDef)
}


def commands_in(source: str) -> list[str]:
    named = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute | ast.Name)]
    return [code for code in map(ast.unparse, named) if COMMAND.search(code)]


def told_by_text(source: str) -> list[str]:
    """拿一个错误的文字去比、去找的式子。"""
    return [
        ast.unparse(node)
        for scope, name in _errors_at_hand(ast.parse(source))
        for node in ast.walk(scope)
        if re.search(rf"\b{name}\.(message|args)\b|\b(str|repr)\({name}\)", _compared(node))
    ]


def _errors_at_hand(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name and _ours(node.type):
            yield node, node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args.args + node.args.kwonlyargs
            yield from ((node, each.arg) for each in arguments if _ours(each.annotation))


def _ours(kind: ast.expr | None) -> bool:
    return kind is not None and not ERRORS.isdisjoint(re.findall(r"\w+", ast.unparse(kind)))


def _compared(node: ast.AST) -> str:
    """比较的两边；在文字上调用的方法（``startswith`` …）；正则的查找。"""
    if isinstance(node, ast.Compare):
        return ast.unparse(node)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return ""
    if node.func.attr in {"search", "match", "fullmatch", "findall"}:
        return ast.unparse(node)
    text = node.func.value
    is_log = isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute)  # bind(…).error()
    return "" if is_log else ast.unparse(text)


def offences(
    look: Callable[[str], list[str]], files: Iterable[Path] = ROOMS
) -> dict[str, list[str]]:
    found = {str(path.relative_to(PACKAGE)): look(path.read_text()) for path in files}
    return {name: code for name, code in found.items() if code}


def test_redis_commands_are_only_in_redis() -> None:
    assert offences(commands_in) == {}


def test_errors_are_told_apart_by_class_never_by_text() -> None:
    assert offences(told_by_text) == {}


@pytest.mark.parametrize(
    "source",
    [
        'await self._redis.lean.execute("GET", key)',
        'await connection.execute_many([("XLEN", key)])',
        "await redis.client.get(key)",
        'finish = Script("finish")',
        "await lean.close()",
    ],
)
def test_a_command_outside_redis_is_found(source: str) -> None:
    assert commands_in(f"async def work():\n    {source}")


@pytest.mark.parametrize(
    "test",
    [
        '"NOGROUP" in error.message',
        '"NOGROUP" not in str(error)',
        'error.args[0] == "no such key"',
        'error.message.startswith("WRONGTYPE")',
        're.search("BUSYGROUP", error.message)',
    ],
)
def test_an_error_told_apart_by_its_text_is_found(test: str) -> None:
    caught = f"try:\n    work()\nexcept MeetingPushError as error:\n    bad = {test}"
    given = f"def bad(error: RedisCommandError) -> bool:\n    return bool({test})"
    assert told_by_text(caught)
    assert told_by_text(given)


def test_passing_on_a_connection_and_saying_an_error_is_no_offence() -> None:
    assert commands_in("store = SeatStore(redis.lean, redis.keys)") == []
    said = "log.say(code=error.code, reason=error.message)"
    assert told_by_text(f"def tell(error: MeetingPushError):\n    {said}") == []


# ── 节点的名字 ──────────────────────────────────────────────────────────────


def named_too_early(source: str) -> list[str]:
    """构造时就取 ``NodeIdentity.id`` 的：造好之后才 fork 的工人会同名。"""
    return [
        ast.unparse(use)
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
        for given in function.args.args
        if given.annotation and ast.unparse(given.annotation) == "NodeIdentity"
        for use in ast.walk(function)
        if ast.unparse(use) == f"{given.arg}.id"
    ]


def test_nobody_takes_the_nodes_name_while_being_made() -> None:
    assert offences(named_too_early, FILES) == {}


def test_a_name_taken_too_early_is_found() -> None:
    made = "def __init__(self, node: NodeIdentity) -> None:"
    assert named_too_early(f"class One:\n    {made}\n        self.name = node.id")
    assert named_too_early(f"class One:\n    {made}\n        self.node = node") == []


# ── 循环 ────────────────────────────────────────────────────────────────────

#: 歇着、等着的写法。
WAITS: Final = re.compile(r"\b(sleep|wait|wait_for)\(")
HAND_WRITTEN: Final = TEXT.partition("## 手写的循环")[2].partition("\n## ")[0]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """``node`` 里面的，不进里面的函数。"""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own(child)


def _goes_on(loop: ast.AST) -> bool:
    """等着什么而没有尽头的，或每一圈都歇着、等着的。"""
    if not isinstance(loop, ast.While):
        return False
    awaited = [ast.unparse(node) for node in _own(loop) if isinstance(node, ast.Await)]
    return bool(awaited) and (ast.unparse(loop.test) == "True" or any(map(WAITS.search, awaited)))


def hand_written(source: str) -> list[str]:
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.AsyncFunctionDef)]
    return [one.name for one in functions if any(map(_goes_on, _own(one)))]


def test_every_hand_written_loop_has_its_reason() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{name}"
        for path in PACKAGE.rglob("*.py")
        for name in hand_written(path.read_text())
    }
    assert found == set(re.findall(r"`([\w/]+\.py:\w+)`", HAND_WRITTEN))


@pytest.mark.parametrize(
    "loop",
    [
        "while True:\n        await self.step()",
        "while self.going:\n        await asyncio.sleep(1)",
        "while not self.done:\n        if await self.step():\n            await self.wake.wait()",
    ],
)
def test_a_hand_written_loop_is_found(loop: str) -> None:
    assert hand_written(f"async def run(self):\n    {loop}") == ["run"]


def test_a_loop_with_an_end_is_not_hand_written() -> None:
    assert (
        hand_written("async def run(rows):\n    while page := await rows():\n        use(page)")
        == []
    )


# ── 设置：一间房只拿它那一组 ──────────────────────────────────────────────────

#: 装配的与命令：只有它们看得见整个设置。
WIRING: Final = frozenset(
    {
        "__init__.py",
        "api_keys.py",
        "app.py",
        "assembly",
        "backup.py",
        "cli.py",
        "db.py",
        "user.py",
        "webhook.py",
        "doctor.py",
        "server.py",
        "settings",
        "sync.py",
        "outbox_office.py",
        "redis_report.py",
        "testing.py",
    }
)


def takes_all_settings(source: str) -> list[str]:
    """导入整个 ``Settings``（或造它的）、或导入 ``settings`` 这个模块的那几行。"""
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    return [ast.unparse(node) for node in imports if _whole_settings(node)]


def _whole_settings(node: ast.Import | ast.ImportFrom) -> bool:
    names = {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
        return any(name.endswith(".settings") for name in names)
    if "settings" in (node.module or "").split("."):
        return not names.isdisjoint({"*", "Settings", "load_settings"})
    return "settings" in names or (node.module in {None, "meeting_push"} and "Settings" in names)


def test_a_room_takes_its_own_group_of_settings() -> None:
    found = offences(takes_all_settings, (p for p in FILES if _home(p) not in WIRING))
    assert found == {}


def test_the_wiring_is_where_it_is_said_to_be() -> None:
    seen = {_home(path) for path in FILES if takes_all_settings(path.read_text())}
    assert seen | {"settings"} == WIRING


@pytest.mark.parametrize(
    "source",
    [
        "from ..settings import Settings",
        "from ..settings import QueueSettings, Settings as Everything",
        "from meeting_push.settings import load_settings",
        "from .. import settings",
        "import meeting_push.settings",
        "def late():\n    from meeting_push import Settings",
    ],
)
def test_a_room_that_takes_all_the_settings_is_found(source: str) -> None:
    assert takes_all_settings(source)


def test_a_group_of_the_settings_is_no_offence() -> None:
    assert takes_all_settings("from ..settings import QueueSettings, Role") == []
