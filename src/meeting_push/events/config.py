"""``MEETING_PUSH_WEBHOOKS`` 的文件：往哪些 URL 送哪些事件。

每一处错都是一行话（退出码 2），说是第几个、哪一项；URL 里的密码、查询与密钥不在里面。
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from ..errors import ConfigurationError
from ..settings.yaml_file import read_yaml
from ..storage.event_outbox import FIELDS
from .signature import key_of

#: 全部的种类。没到时就撤回的是 ``message.failed``，原因 ``cancelled``。
KINDS: Final = tuple(FIELDS)
MOST_RECEIVERS: Final = 50
#: 换钥匙时新旧并存。
MOST_SECRETS: Final = 3


class WebhookConfig(msgspec.Struct, frozen=True):
    """``key`` 是它在记录里的名字，由 URL 来：改了密钥、种类，等着的还是它的。"""

    url: str
    keys: tuple[bytes, ...]
    kinds: frozenset[str]

    @property
    def key(self) -> str:
        return key_of_url(self.url)

    @property
    def shown(self) -> str:
        return shown_url(self.url)

    @property
    def label(self) -> str:
        """指标的标签：主机与钥匙的头几个字，够分清。"""
        return f"{urlsplit(self.url).hostname}/{self.key[4:10]}"


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    secret: str | list[str]
    events: list[str] | msgspec.UnsetType = msgspec.UNSET


def load_webhooks(path: Path | None) -> tuple[WebhookConfig, ...]:
    """没有文件就是没有。

    :raises ConfigurationError: 一行话
    """
    if path is None:
        return ()
    try:
        found = read_yaml(path)
        return _receivers([] if found is None else found)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} can not be read: {error.strerror}") from None


def key_of_url(url: str) -> str:
    return "url:" + hashlib.sha256(url.encode()).hexdigest()[:24]


def shown_url(url: str) -> str:
    """给人看的：没有用户名、密码；查询里可能有钥匙，只说有。"""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def _receivers(found: Any) -> tuple[WebhookConfig, ...]:
    if not isinstance(found, list):
        raise ValueError("the file must be a list of {url, secret, events}")
    if len(found) > MOST_RECEIVERS:
        raise ValueError(f"there are {len(found)} of them, more than {MOST_RECEIVERS}")
    receivers = [_receiver(f"[{place}]", one) for place, one in enumerate(found)]
    urls = [one.url for one in receivers]
    for place, url in enumerate(urls):
        if url in urls[:place]:
            raise ValueError(f"[{place}].url: {shown_url(url)} is there twice")
    return tuple(receivers)


def _receiver(where: str, given: Any) -> WebhookConfig:
    try:
        one = msgspec.convert(given, _Given)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from None
    _check_url(f"{where}.url", one.url)
    secrets = [one.secret] if isinstance(one.secret, str) else one.secret
    kinds = list(KINDS) if one.events is msgspec.UNSET else one.events
    return WebhookConfig(
        one.url, _keys(f"{where}.secret", secrets), _kinds(f"{where}.events", kinds)
    )


def _check_url(where: str, url: str) -> None:
    try:
        parts: SplitResult | None = urlsplit(url)
        assert parts is not None
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or any(letter.isspace() for letter in url):
        raise ValueError(f"{where}: is no http:// or https:// address")


def _keys(where: str, secrets: Sequence[str]) -> tuple[bytes, ...]:
    if not 1 <= len(secrets) <= MOST_SECRETS:
        raise ValueError(f"{where}: one secret, or a list of up to {MOST_SECRETS}")
    try:
        return tuple(map(key_of, secrets))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _kinds(where: str, kinds: Sequence[str]) -> frozenset[str]:
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{where}: unknown event {kind!r}; known are {', '.join(KINDS)}")
    if not kinds:
        raise ValueError(f"{where}: is empty; leave it out for all of them")
    return frozenset(kinds)
