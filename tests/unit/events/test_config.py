"""``MEETING_PUSH_WEBHOOKS`` 的文件。"""

from __future__ import annotations

from pathlib import Path

import pytest

from meeting_push.errors import ConfigurationError
from meeting_push.events.config import KINDS, load_webhooks
from tests.support.event_receivers import SECRET


def load(tmp_path: Path, text: str) -> object:
    file = tmp_path / "hooks.yaml"
    file.write_text(text)
    return load_webhooks(file)


def test_no_file_is_none() -> None:
    assert load_webhooks(None) == ()


def test_a_receiver(tmp_path: Path) -> None:
    file = tmp_path / "hooks.yaml"
    file.write_text(
        f"- {{url: 'https://u:pw@h.example:8443/in?token=t0', secret: {SECRET},"
        " events: [message.read, alert.firing]}\n"
        f"- {{url: 'http://other.example/', secret: [{SECRET}, {SECRET}]}}\n"
    )
    first, second = load_webhooks(file)
    assert first.kinds == {"message.read", "alert.firing"}
    assert first.keys[0] == second.keys[1]
    assert second.kinds == set(KINDS)
    assert first.shown == "https://h.example:8443/in?…"
    assert first.label.startswith("h.example/")
    assert len({first.key, second.key}) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a: 1}", "must be a list"),
        ("- [", "line "),
        ("- 5", "[0]: Expected `object`"),
        (f"- {{secret: {SECRET}}}", "[0]: Object missing required field `url`"),
        (f"- {{url: 'ftp://h/', secret: {SECRET}}}", "[0].url: is no http"),
        (f"- {{url: 'https:///x', secret: {SECRET}}}", "[0].url: is no http"),
        (f"- {{url: 'https://h:99999/', secret: {SECRET}}}", "[0].url: is no http"),
        ("- {url: 'https://h/', secret: hunter2}", "[0].secret: does not begin with whsec_"),
        ("- {url: 'https://h/', secret: whsec_%%}", "is not base64"),
        ("- {url: 'https://h/', secret: whsec_aGk=}", "holds 2 bytes"),
        ("- {url: 'https://h/', secret: []}", "one secret"),
        (f"- {{url: 'https://h/', secret: {SECRET}, events: [x.y]}}", "unknown event 'x.y'"),
        (f"- {{url: 'https://h/', secret: {SECRET}, events: []}}", "is empty"),
        (f"- {{url: 'https://h/', secret: {SECRET}, retries: 5}}", "unknown field `retries`"),
        (
            f"- {{url: 'https://u:pw@h/', secret: {SECRET}}}\n" * 2,
            "[1].url: https://h/ is there twice",
        ),
    ],
)
def test_a_bad_file_is_one_line_without_secrets(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    message = caught.value.message
    assert said in message
    assert "\n" not in message
    assert SECRET not in message
    assert "hunter2" not in message
    assert "pw" not in message


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can not be read"):
        load_webhooks(tmp_path / "none.yaml")
