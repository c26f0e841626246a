"""一个服务器在 Sentinel 后面：照常送达；地址写错、密码不对、权限不够各是一行话。"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.one_command import command
from tests.support.ports import free_port
from tests.support.sentinels import SERVICE, SentinelSite
from tests.support.server_process import ServerProcess


def addresses(site: SentinelSite) -> dict[str, tuple[str, str]]:
    """写错的：（地址，那一行里有的话）。"""
    master, sentinel = f"127.0.0.1:{site.servers[0].port}", site.sentinels[0].host
    return {
        "service": (f"redis+sentinel://{sentinel}/nobody", "knows no service nobody"),
        "no service": (f"redis+sentinel://{sentinel}", "needs the name of the service"),
        "a redis as sentinel": (f"redis+sentinel://{master}/{SERVICE}", "is not a Sentinel"),
        "a sentinel as redis": (f"redis://{sentinel}/0", "is a Sentinel, not a Redis"),
        "a user": (
            f"redis+sentinel://nobody:hunter2@{sentinel}/{SERVICE}",
            "Redis refused the credentials",
        ),
        "sentinel user": (
            f"redis+sentinel://{sentinel}/{SERVICE}?sentinel_username=x&sentinel_password=hunter2",
            f"the Sentinel at {sentinel} refused the credentials",
        ),
    }


@pytest.mark.parametrize(
    "which",
    [
        "service",
        "no service",
        "a redis as sentinel",
        "a sentinel as redis",
        "a user",
        "sentinel user",
    ],
)
@pytest.mark.timeout(240)
def test_a_wrong_address_is_one_line(
    tmp_path: Path, sentinel_site: SentinelSite, which: str
) -> None:
    url, said = addresses(sentinel_site)[which]
    result = command(tmp_path, "serve", "--port", str(free_port()), "--redis-url", url)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    found = command(tmp_path, "doctor", "--redis-url", url)
    assert said in found.stdout + found.stderr
    assert "hunter2" not in found.stdout + found.stderr


@pytest.mark.timeout(240)
def test_a_user_without_rights_is_told_what_is_missing(
    tmp_path: Path, sentinel_site: SentinelSite
) -> None:
    rules = {"SUBSCRIBE": ("+@all", "resetchannels"), "EVAL": ("&*", "+@all", "-eval", "-evalsha")}
    for missing, given in rules.items():
        with sentinel_site.client(sentinel_site.servers[0]) as admin:
            admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", *given)
        url = sentinel_site.url.replace("//", "//app:pw@")
        result = command(tmp_path, "serve", "--port", str(free_port()), "--redis-url", url)
        assert result.returncode == 2
        assert missing in result.stderr
        found = command(tmp_path, "doctor", "--redis-url", url)
        assert found.returncode == 1
        assert missing in found.stdout
    with sentinel_site.client(sentinel_site.servers[0]) as admin:
        admin.execute_command("ACL", "DELUSER", "app")


@pytest.mark.timeout(240)
def test_no_sentinel_at_the_start_is_waited_for(tmp_path: Path) -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{SERVICE}"
    result = command(tmp_path, "serve", "--port", str(free_port()), "--redis-url", url)
    assert result.returncode == 1
    assert "start_waits" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.timeout(240)
def test_a_server_behind_sentinels_is_ready_and_doctor_counts_them(
    tmp_path: Path, sentinel_site: SentinelSite
) -> None:
    settings = {"key_prefix": "served:"}
    with ServerProcess(tmp_path, redis_url=sentinel_site.url, settings=settings) as server:
        assert server.is_ready()
    found = command(tmp_path, "doctor", "--redis-url", sentinel_site.url)
    assert "ok   redis" in found.stdout
    assert "3 of 3 Sentinels answer" in found.stdout
