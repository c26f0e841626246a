"""留底的文件：一批一个 gzip 成员；半截的、不是留底的。"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from meeting_push.errors import InvalidInputError
from meeting_push.outcome import retention
from meeting_push.outcome.retention import ArchiveFolder, read_archive
from meeting_push.storage.archive import ArchivedRow

ROWS = [ArchivedRow("messages", {"message_id": f"m{number}"}) for number in range(3)]


def test_batches_written_one_by_one_are_read_as_one_file(tmp_path: Path) -> None:
    folder = ArchiveFolder(tmp_path / "deep" / "kept", "x")
    for row in ROWS:
        folder.write([row])
    assert [row for rows in read_archive(folder.path) for row in rows] == ROWS


def test_a_last_batch_half_written_is_left_out(tmp_path: Path) -> None:
    """断电时正写着的那一批还没有删过。"""
    folder = ArchiveFolder(tmp_path, "x")
    folder.write(ROWS[:2])
    whole = folder.path.stat().st_size
    folder.write(ROWS[2:])
    with folder.path.open("r+b") as file:
        file.truncate(whole + 15)
    assert [row for rows in read_archive(folder.path) for row in rows] == ROWS[:2]


def test_a_full_file_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_BYTES", 10)
    folder = ArchiveFolder(tmp_path, "x")
    for row in ROWS:
        folder.write([row])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert [row for file in files for rows in read_archive(file) for row in rows] == ROWS


@pytest.mark.parametrize(
    ("line", "packed"),
    [
        ("hello", False),
        ("hello", True),
        ('{"table": "users", "row": {"id": 1}}', True),
        ('{"table": "messages", "row": {"title": "t"}}', True),
    ],
)
def test_what_is_no_archive_is_refused_with_one_line(
    tmp_path: Path, line: str, packed: bool
) -> None:
    content = f"{line}\n".encode()
    (tmp_path / "x.gz").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InvalidInputError) as refused:
        list(read_archive(tmp_path / "x.gz"))
    assert "\n" not in refused.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        list(read_archive(tmp_path / "gone.gz"))
