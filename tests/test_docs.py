"""文档不说谎：它点名的文件都在它说的地方，它给的命令都存在。"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import meeting_push
from meeting_push.redis.keys import Keys

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "meeting_push"
#: 键名里的变量在 docs/redis-data.md 里怎么写。
PLACEHOLDERS = {
    "user_id": "uid",
    "meeting_id": "meeting_id",
    "node_id": "<id>",
    "message_id": "<message_id>",
    "digest": "<sha256>",
    "name": "<name>",
}
KEYS = [name for name in vars(Keys) if not name.startswith("_") and name != "prefix"]


def named_files(page: Path) -> set[str]:
    """反引号里的 ``某房间/某文件.py`` 与 ``.lua``。"""
    return set(re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|lua))`", page.read_text()))


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name)
def test_every_file_a_page_names_is_where_it_says(page: Path) -> None:
    missing = [
        name
        for name in named_files(page)
        if not (PACKAGE / name).exists() and not (ROOT / name).exists()
    ]
    assert missing == []


def test_every_test_a_page_names_exists() -> None:
    pages = {page.name: page.read_text() for page in ROOT.glob("docs/**/*.md")}
    named = {name for text in pages.values() for name in re.findall(r"`(test_\w+)`", text)}
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    assert named
    assert named - set(re.findall(r"def (test_\w+)\(", tests)) == set()


@pytest.mark.parametrize("verb", ["accept", "enqueue", "take", "deliver", "push", "ack", "confirm"])
def test_the_life_of_a_message_has_a_station_for_each_verb(verb: str) -> None:
    text = (ROOT / "docs" / "life-of-a-message.md").read_text()
    assert re.search(rf"^## \d\. .*\b{verb}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", KEYS)
def test_every_key_and_channel_has_a_row(name: str) -> None:
    member = getattr(Keys(), name)
    if callable(member):
        member = member(*(PLACEHOLDERS[each] for each in inspect.signature(member).parameters))
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "redis-data.md").read_text(), re.M)
    assert f"`{member}`" in " · ".join(rows).split(" · ")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_every_link_of_the_readme_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_short(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) < 120


def test_the_two_readmes_are_twins() -> None:
    blocks = [
        re.findall(r"```\w+\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
        for page in ("README.md", "README.zh-CN.md")
    ]
    commands = [
        [
            re.sub(r"#.*|\"[^\"]*\"", "", line).rstrip()
            for block in page
            for line in block.splitlines()
        ]
        for page in blocks
    ]
    assert commands[0] == commands[1]


@pytest.mark.parametrize("name", meeting_push.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(meeting_push, name) is not None
