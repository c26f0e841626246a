"""读一个设置的 YAML 文件：大小有上限，同一个键写了两遍是错。"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

MAX_BYTES: Final = 1 << 20


class _Loader(yaml.SafeLoader):
    """同一个键写了两遍，不悄悄地只算后一个。"""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"{repeated} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """空文件是 None。

    :raises ValueError: 一行话说哪里不对
    :raises OSError: 读不了
    """
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 — 是 SafeLoader 的子类
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, RecursionError):
        raise ValueError("not YAML") from None
