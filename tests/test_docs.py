"""文档不说谎：它点名的都在它说的地方；谁写下的编号、页、文件都有去处。"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from meeting_push.redis.keys import Keys
from tests.support.citations import ROOT, dangling, dead_links, rows, searched
from tools.logs_page import PAGE as LOGS_PAGE
from tools.logs_page import page as logs_page
from tools.logs_page import said, vocabulary

PACKAGE = ROOT / "src" / "meeting_push"
#: 键名里的变量在 docs/redis-data.md 里怎么写。
PLACEHOLDERS = {
    "user_id": "uid",
    "meeting_id": "meeting_id",
    "node_id": "<id>",
    "message_id": "<message_id>",
    "digest": "<sha256>",
    "name": "<name>",
    "nonce": "<nonce>",
    "tag": "tag",
}
#: 页上的路径从哪里算起。
HOMES = (PACKAGE, PACKAGE / "redis" / "lua", ROOT / "bench" / "src" / "meeting_push_bench")
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md")), ROOT / "bench/README.md"]
#: 出口自己说的：库里的记录；种类太多，合在一起的。
OF_THE_OUTLET = {"library", "others"}
#: 每一行的头里的。
RESERVED = {"ts", "level", "event", "node", "role", "logger", "text"}
NO_KEYS = {"prefix", "tagged", "sharded", "is_sharded"}
KEYS = [name for name in vars(Keys) if not name.startswith("_") and name not in NO_KEYS]


# ── 引用 ────────────────────────────────────────────────────────────────────


def test_every_id_and_page_anybody_names_exists() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {each}"
        for path in searched()
        for each in dangling(path.read_text())
    }
    assert sorted(wrong) == []


@pytest.mark.parametrize(
    "text",
    [
        f"LESSONS {99}",
        f"LESSONS 1、{99}",
        f"def test_lesson_{99}_something()",
        f"见 DLV-{9}",
        f"def test_dlv_{9}_something()",
        f"又坏了（A{18}）",
        f"def test_f{9}_something()",
        f"ADR {9999}",
        f"[决定 {9999}](adr/0001-mailbox-first.md)",
        f"第 {99} 站",
        f"见 docs/{'nowhere'}.md",
        f"见 `docs/adr/{'0001-nowhere'}.md`",
        f"{'NOWHERE'}.md",
        f"{'NOWHERE'} §3",
    ],
)
def test_a_citation_that_leads_nowhere_is_found(text: str) -> None:
    assert list(dangling(text))


@pytest.mark.parametrize(
    "text",
    [
        "LESSONS 20、25",
        "def test_lesson_1_the_first_retry()",
        "DLV-1 … DLV-5，CON-4",
        "def test_e10_there_is_a_way_back()",
        "（A5、A14）",
        "ADR 0010，见 docs/adr/0010-mailbox-shares.md 与 docs/contract.md",
        "第 4 站",
        "验收标准 1-4.2-A5，颜色 #F9，%E4%BD%A0，README.md 与 ISO-8859-1",
    ],
)
def test_a_citation_that_leads_somewhere_is_left_alone(text: str) -> None:
    assert list(dangling(text)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# 标题 一\n[a](page.md#标题-一) [b](#标题) [c](nowhere.md) [d](https://e.f)")
    assert list(dead_links(page)) == ["#标题", "nowhere.md"]


def named_files(page: Path) -> set[str]:
    """反引号里的 ``某房间/某文件.py``、``某文件.py`` 与 ``.lua``，以及 ``某房间/``。"""
    text = page.read_text()
    return set(re.findall(r"`((?:[\w-]+/)*[\w-]+\.(?:py|lua)|(?:[\w-]+/)+)`", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_a_page_names_is_where_it_says(page: Path) -> None:
    homes = (ROOT, *HOMES, page.parent)
    missing = [
        name for name in named_files(page) if not any((home / name).exists() for home in homes)
    ]
    assert missing == []


def test_every_test_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    assert named
    assert named - set(re.findall(r"def (test_\w+)\(", tests)) == set()


@pytest.mark.parametrize("page", ["lessons.md", "findings.md"])
def test_every_row_names_a_test_or_says_what_is_missing(page: str) -> None:
    lines = re.findall(r"^\| [A-F]?\d+ \|.*$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert lines
    assert [line for line in lines if "`test_" not in line and "缺口" not in line] == []


def test_every_promise_has_its_mechanism_and_a_test_of_its_name() -> None:
    text = (ROOT / "docs" / "promises.md").read_text()
    for promise in rows("promises.md", r"[A-Z]{3}-\d"):
        _said, proved = re.findall(rf"^\| {promise} \|.*$", text, re.MULTILINE)
        assert f"`test_{promise.lower().replace('-', '_')}_" in proved


# ── 一条消息的一生、Redis ────────────────────────────────────────────────────


VERBS = ["accept", "enqueue", "take", "deliver", "push", "ack", "confirm", "retry", "expire"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_life_of_a_message_has_a_station_for_each_verb(verb: str) -> None:
    text = (ROOT / "docs" / "life-of-a-message.md").read_text()
    assert re.search(rf"^## \d\. .*\b{verb}\b", text, re.MULTILINE)


def test_the_life_of_a_message_reads_from_top_to_bottom() -> None:
    """动词按消息的次序出现，一站一号，没有一句话把人支到别的站去。"""
    text = (ROOT / "docs" / "life-of-a-message.md").read_text()
    stations = re.findall(r"^## (\d+)\. (.+)$", text, re.MULTILINE)
    assert [int(number) for number, _ in stations] == list(range(1, len(stations) + 1))
    headings = " ".join(title for _, title in stations)
    places = [re.search(rf"\b{verb}\b", headings) for verb in VERBS]
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)
    assert re.findall(r"第 ?\d+ ?站|见下|见上", text) == []


@pytest.mark.parametrize("name", KEYS)
def test_every_key_and_channel_has_a_row(name: str) -> None:
    member = getattr(Keys(), name)
    if callable(member):
        member = member(*(PLACEHOLDERS[each] for each in inspect.signature(member).parameters))
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "redis-data.md").read_text(), re.M)
    assert f"`{member}`" in " · ".join(rows).split(" · ")


# ── 日志 ────────────────────────────────────────────────────────────────────


def test_every_event_of_the_log_is_in_the_vocabulary_and_every_one_there_is_said() -> None:
    """``log_events.txt``：少一行是没有人懂的日志，多一行是谎话。"""
    events, unnamed = said()
    assert unnamed == [], "the name of an event is a literal"
    assert set(events) ^ (set(vocabulary()) - OF_THE_OUTLET) == set()


def test_an_event_is_said_at_the_level_the_vocabulary_gives() -> None:
    levels = {event: entry.level.split("/") for event, entry in vocabulary().items()}
    wrong = [event for event, one in said()[0].items() if not one.levels <= set(levels[event])]
    assert wrong == []


def test_an_event_is_snake_case_and_its_fields_do_not_hide_the_head_of_the_line() -> None:
    events = said()[0]
    assert [name for name in events if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []
    hidden = {name: one.fields & RESERVED for name, one in events.items() if one.fields & RESERVED}
    assert hidden == {"serving": {"node", "role"}, "draining": {"node"}}  # 同一个节点


def test_the_page_of_the_logs_is_up_to_date() -> None:
    assert LOGS_PAGE.read_text() == logs_page(), "run: make figures"


# ── README ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_short(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) < 120
