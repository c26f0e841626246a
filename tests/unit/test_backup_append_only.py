"""内嵌 Redis 的 AOF 抄一份：重写着也是完整的一份。"""

from __future__ import annotations

from pathlib import Path

import pytest

from meeting_push import backup
from meeting_push.backup import FOLDER, MANIFEST, copy_append_only
from meeting_push.errors import ConfigurationError, UnavailableError


def write_aof(folder: Path, number: int, *, keep: str = "") -> None:
    """第 ``number`` 次重写之后的样子。"""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    names = [f"appendonly.aof.{number}.base.rdb", f"appendonly.aof.{number}.incr.aof"]
    for name in names:
        (folder / FOLDER / name).write_text(name)
    kinds = zip(names, "bi", strict=True)
    lines = [f"file {name} seq {number} type {kind}" for name, kind in kinds]
    (folder / FOLDER / MANIFEST).write_text("\n".join([*lines, keep]) + "\n")


def test_what_the_manifest_names_is_copied(tmp_path: Path) -> None:
    old = "file appendonly.aof.1.base.rdb seq 1 type h"
    write_aof(tmp_path / "a", 2, keep=old)
    (tmp_path / "a" / "written-by").write_text("valkey 9.0.0")
    names = copy_append_only(tmp_path / "a", tmp_path / "b")
    assert names[-1] == "written-by"
    assert {path.name for path in (tmp_path / "b" / FOLDER).iterdir()} == {
        MANIFEST,
        "appendonly.aof.2.base.rdb",
        "appendonly.aof.2.incr.aof",
    }


def test_a_rewrite_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, copied = tmp_path / "a", backup._copied
    write_aof(folder, 1)

    def rewritten_meanwhile(source: Path, to: Path, names: list[str]) -> bool:
        done = copied(source, to, names)
        if "appendonly.aof.1.base.rdb" in names[1]:
            (folder / FOLDER / "appendonly.aof.1.base.rdb").unlink()
            write_aof(folder, 2)
        return done

    monkeypatch.setattr(backup, "_copied", rewritten_meanwhile)
    monkeypatch.setattr(backup, "_PAUSE_S", 0)
    assert f"{FOLDER}/appendonly.aof.2.base.rdb" in copy_append_only(folder, tmp_path / "b")


def test_one_that_never_rests_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_aof(tmp_path / "a", 1)
    (tmp_path / "a" / FOLDER / "appendonly.aof.1.incr.aof").unlink()
    monkeypatch.setattr(backup, "_PAUSE_S", 0)
    with pytest.raises(UnavailableError, match="try again"):
        copy_append_only(tmp_path / "a", tmp_path / "b")


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no data"):
        copy_append_only(tmp_path, tmp_path / "b")
