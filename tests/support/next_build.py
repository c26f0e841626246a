"""假想的下一版：源码的一份，多一份迁移、多一列、帧里多一项、队列的条目换了样子与版本号。

表先扩后缩；条目不兼容，号大一：旧的读不懂，要留给读得懂的。
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import meeting_push
from meeting_push.storage.migration import HEAD
from meeting_push.version import __version__

NEXT_VERSION: Final = "99.0.0"
NEXT_HEAD: Final = f"{int(HEAD) + 1:04d}"
#: 帧里多的一项。
SHADE: Final = 7
_MIGRATION: Final = f'''
"""多一列。"""

import sqlalchemy as sa

revision = "{NEXT_HEAD}"
down_revision = "{HEAD}"
branch_labels = None
depends_on = None


def upgrade(op):
    op.add_column("mp_messages", sa.Column("shade", sa.Integer))


def downgrade(op):
    op.drop_column("mp_messages", "shade")
'''
#: 文件 → (现在的, 下一版的)。
_CHANGES: Final = {
    "version.py": (f'"{__version__}"', f'"{NEXT_VERSION}"'),
    "storage/migration.py": (f'HEAD: Final = "{HEAD}"', f'HEAD: Final = "{NEXT_HEAD}"'),
    "storage/tables.py": (
        '    Column("withdrawn_at", BigInteger),',
        '    Column("shade", Integer),\n    Column("withdrawn_at", BigInteger),',
    ),
    "protocol/frames.py": (
        '    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})] = None',
        '    data: Annotated[Any, Meta(extra_json_schema={"type": ["object", "null"]})] = None'
        f"\n    shade: int = {SHADE}",
    ),
    "queue/queue_reader.py": (
        'fields.get(b"v") != ENTRY_VERSION',
        'fields.get(b"v") not in (b"1", b"2")',
    ),
    "redis/lua/enqueue.lua": ("'v', '1', 'entry'", "'v', '2', 'body'"),
    "redis/lua/due.lua": ("'v', '1', 'entry'", "'v', '2', 'body'"),
    "redis/lua/deliver.lua": ("-- 投递一批", "-- 下一版的：摘要不同。投递一批"),
}
_ALSO: Final = {
    "queue/queue_reader.py": (
        ('ENTRY_VERSION: Final = b"1"', 'ENTRY_VERSION: Final = b"2"'),
        ('fields.get(b"entry", b"")', 'fields.get(b"body", fields.get(b"entry", b""))'),
    ),
}


def next_source(folder: Path) -> Path:
    """在 ``folder`` 里造一份，返回 ``PYTHONPATH``。

    :raises AssertionError: 要改的那一处不在了：照现在的源码改这里
    """
    package = folder / "meeting_push"
    ours = Path(meeting_push.__file__).parent
    shutil.copytree(ours, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, change in _CHANGES.items():
        _patch(package / name, change, *_ALSO.get(name, ()))
    versions = package / "storage" / "migrations" / "versions"
    (versions / f"m{NEXT_HEAD}_next.py").write_text(_MIGRATION)
    return folder


def _patch(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for before, after in changes:
        assert before in text, f"{file.name} has no {before!r}"
        text = text.replace(before, after, 1 if file.suffix == ".py" else -1)
    file.write_text(text)
