"""``--set NAME=VALUE``：被测服务器的一个设置，改了它再量，与没改的比。"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from meeting_push.settings import Settings

#: 压测自己定的，或另有选项。
_OURS: Final = frozenset(
    {
        "host",
        "port",
        "data_dir",
        "role",
        "workers",
        "redis_url",
        "database_url",
        "key_prefix",
        "jwt_secret",
        "jwt_audience",
    }
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the server under test."),
]


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """``connects_per_s=400``，大小写不论。

    :raises typer.BadParameter: 没有这个设置、它归压测自己管，或没有 ``=``
    """
    return dict(map(_parse, pairs))


def _parse(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    name = name.strip().lower()
    if not equals:
        raise typer.BadParameter(f"{pair}: expected NAME=VALUE", param_hint="--set")
    if name in _OURS:
        raise typer.BadParameter(f"{name} is set by the bench", param_hint="--set")
    if name not in Settings.model_fields:
        raise typer.BadParameter(f"{name} is not a setting", param_hint="--set")
    return name, value
