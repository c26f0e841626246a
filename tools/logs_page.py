"""由源码里说的每一件事与词表 ``log_events.txt`` 写出 ``docs/logs.md``（``make figures``）。"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src" / "meeting_push"
VOCABULARY: Final = SOURCE / "log_events.txt"
PAGE: Final = ROOT / "docs" / "logs.md"
LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}
WARNING: Final = "RepeatedWarning"


class Entry(NamedTuple):
    """词表的一行；``more``：写法不是字面的字段，从源码里看不出来。"""

    event: str
    level: str
    meaning: str
    what_to_do: str
    more: tuple[str, ...]


def vocabulary() -> dict[str, Entry]:
    entries = {}
    for row in VOCABULARY.read_text().splitlines():
        if not row or row.startswith("#"):
            continue
        event, level, meaning, what_to_do, *more = (cell.strip() for cell in row.split("|"))
        entries[event] = Entry(event, level, meaning, what_to_do, tuple(" ".join(more).split()))
    return entries


@dataclass
class Said:
    """一件事在源码里的样子。"""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class Walk(ast.NodeVisitor):
    """一个文件里说的；名字不是字面的记在 ``unnamed``。"""

    def __init__(self, path: Path) -> None:
        self.said: dict[str, Said] = {}
        self.unnamed: list[str] = []
        self._path = path.relative_to(SOURCE).as_posix()
        #: 变量或属性的名字 → 它是哪个 ``RepeatedWarning`` 的事件。
        self._warnings: dict[str, str] = {}
        #: 变量的名字 → 已经绑上的字段。
        self._bound: dict[str, set[str]] = {}
        #: 产出 ``Log`` 的函数 → 它绑上的字段。
        self._makers: dict[str, set[str]] = {}
        tree = ast.parse(path.read_text())
        self._find_warnings(tree)
        self.visit(tree)

    def _find_warnings(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                made = [one for one in ast.walk(node.value) if _called(one) == WARNING]
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for call in made:
                    assert isinstance(call, ast.Call)
                    for target in targets:
                        self._warnings[_name(target)] = _literal(call) or ""

            if isinstance(node, ast.FunctionDef) and node.returns and _name(node.returns) == "Log":
                returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
                for value in returned:
                    self._makers[node.name] = (value and self._chain(value)) or set()

    def visit_Assign(self, node: ast.Assign) -> None:
        fields = self._chain(node.value)
        if fields is not None:
            for target in node.targets:
                self._bound.setdefault(_name(target), set()).update(fields)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called, function = _called(node), node.func
        if called == WARNING:
            self._note_warning(node)
        elif isinstance(function, ast.Attribute) and function.attr in LEVELS:
            fields = self._chain(function.value)
            if fields is not None:
                self._note(node, LEVELS[function.attr], fields)
        elif isinstance(function, ast.Attribute) and function.attr == "say":
            event = self._warnings.get(_name(function.value))
            if event:
                self._of(event).fields |= _keywords(node)
        elif called == "periodically":
            for one in node.args:
                if event := self._warnings.get(_name(one)):
                    self._of(event).fields |= {"code", "cause"}
        self.generic_visit(node)

    def _note_warning(self, node: ast.Call) -> None:
        given = {one.arg: one.value for one in node.keywords}
        level = given.get("level")
        levels = {"WARNING"} if level is None else set(_texts(level))
        self._note(node, "", set())
        if event := _literal(node):
            said = self._of(event)
            said.levels |= levels
            said.fields.add("repeated")

    def _note(self, node: ast.Call, level: str, fields: set[str]) -> None:
        event = _literal(node)
        if event is None:
            self.unnamed.append(f"{self._path}:{node.lineno}")
            return
        said = self._of(event)
        said.levels |= {level} - {""}
        said.fields |= fields

    def _of(self, event: str) -> Said:
        said = self.said.setdefault(event, Said())
        said.files.add(self._path)
        return said

    def _chain(self, node: ast.expr) -> set[str] | None:
        """``logger.bind(a=…).opt(…)`` 绑上的字段；不是从 ``logger`` 来的是 None。"""
        if isinstance(node, ast.Name):
            return set() if node.id == "logger" else self._bound.get(node.id)
        if (made := self._makers.get(_called(node))) is not None:
            return made
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return None
        before = self._chain(node.func.value)
        if before is None or node.func.attr not in ("bind", "opt"):
            return None
        return before | _keywords(node) if node.func.attr == "bind" else before | {"traceback"}


def _called(node: ast.AST) -> str:
    return _name(node.func) if isinstance(node, ast.Call) else ""


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _literal(node: ast.Call) -> str | None:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _keywords(node: ast.Call) -> set[str]:
    names = {one.arg for one in node.keywords if one.arg is not None}
    return {"traceback" if name == "exception" else name for name in names}


def said() -> tuple[dict[str, Said], list[str]]:
    """源码里说的每一件事，与名字不是字面的那些地方。"""
    found: dict[str, Said] = {}
    unnamed: list[str] = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name in ("logs.py", "log_outlet.py"):
            continue
        walk = Walk(path)
        unnamed += walk.unnamed
        for event, one in walk.said.items():
            into = found.setdefault(event, Said())
            into.levels |= one.levels
            into.fields |= one.fields
            into.files |= one.files
    return found, unnamed


_HEAD: Final = """\
# 日志里的事件

由 `make figures` 从源码与 `src/meeting_push/log_events.txt` 生成，别在这里改。怎样读、怎样把一件事
的几行找到一起，见 [运维](operations.md#日志)。一分钟里说得太多的只记头几行，`repeated` 是没有记下的
次数；`traceback` 是回溯。库里的记录是 `library`。

| 事件 | 级别 | 字段 | 含义 | 怎么办 |
|---|---|---|---|---|
"""


def page() -> str:
    found, _ = said()
    return _HEAD + "\n".join(_rows(found)) + "\n"


def _rows(found: dict[str, Said]) -> Iterator[str]:
    for entry in sorted(vocabulary().values()):
        fields = (found[entry.event].fields if entry.event in found else set()) | set(entry.more)
        shown = " ".join(f"`{name}`" for name in sorted(fields))
        cells = (f"`{entry.event}`", entry.level, shown or "—", entry.meaning, entry.what_to_do)
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
