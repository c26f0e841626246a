"""写出 ``clients/js/src/frames.ts``：用户通道上每一种帧的类型，由 ``docs/asyncapi.yaml`` 得来。"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "docs" / "asyncapi.yaml"
TARGET: Final = ROOT / "clients" / "js" / "src" / "frames.ts"
HEAD: Final = "// 由 tools/typescript_frames.py 从 docs/asyncapi.yaml 生成，不要手改。\n"
_PREFIX: Final = "#/components/schemas/"
#: ``Error`` 是 JavaScript 自己的。
_RENAMED: Final = {"Error": "ErrorFrame"}
_PLAIN: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
    "object": "Record<string, unknown>",
}

Schema = dict[str, Any]


def page() -> str:
    """整个文件。"""
    document = yaml.safe_load(SOURCE.read_text())
    schemas: Schema = document["components"]["schemas"]
    sent, received = (_payloads(document, action) for action in ("send", "receive"))
    names = _closure(schemas, [*sent, *received])
    parts = [_declaration(name, schemas[name]) for name in schemas if name in names]
    parts.append(_union("ServerFrame", "服务器 → 客户端。", sent))
    parts.append(_union("ClientFrame", "客户端 → 服务器。", received))
    return HEAD + "\n" + "\n".join(parts)


def _payloads(document: Schema, action: str) -> list[str]:
    """``send`` 是服务器推的与它回答的；``receive`` 是它收的。次序同文档。"""
    found: dict[str, None] = {}
    for operation in document["operations"].values():
        if not operation["channel"]["$ref"].endswith("/userMessages"):
            continue
        messages = operation["messages"] if operation["action"] == action else []
        if action == "send" and "reply" in operation:
            messages = operation["reply"]["messages"]
        for message in messages:
            name = message["$ref"].rpartition("/")[2]
            payload = document["components"]["messages"][name]["payload"]["$ref"]
            found.setdefault(payload.removeprefix(_PREFIX))
    return list(found)


def _closure(schemas: Schema, names: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return found


def _references(node: object) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"].removeprefix(_PREFIX)] if "$ref" in node else []
    return own + [name for value in node.values() for name in _references(value)]


def _declaration(name: str, schema: Schema) -> str:
    if "properties" not in schema:
        return f"{_comment(schema)}export type {_named(name)} = {_type(schema)};\n"
    required = schema.get("required", [])
    lines = [
        f"{_comment(field, '  ')}  {key}{'' if key in required else '?'}: {_type(field)};\n"
        for key, field in schema["properties"].items()
    ]
    return f"{_comment(schema)}export interface {_named(name)} {{\n{''.join(lines)}}}\n"


def _comment(schema: Schema, indent: str = "") -> str:
    text = " ".join(str(schema.get("description", "")).split())
    return f"{indent}/** {text} */\n" if text else ""


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return _named(str(schema["$ref"]).removeprefix(_PREFIX))
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return " | ".join(map(_literal, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    kind = schema["type"]
    if isinstance(kind, list):
        return " | ".join(_PLAIN[one] for one in kind)
    if kind != "array":
        return _PLAIN[kind]
    item = _type(schema["items"])
    return f"({item})[]" if " | " in item else f"{item}[]"


def _named(name: str) -> str:
    return _RENAMED.get(name, name)


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _union(name: str, comment: str, members: list[str]) -> str:
    listed = "".join(f"\n  | {_named(member)}" for member in members)
    return f"/** {comment} */\nexport type {name} ={listed};\n"


if __name__ == "__main__":
    TARGET.write_text(page())
