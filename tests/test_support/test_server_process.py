from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server_process import ServerProcess


def test_a_server_that_refuses_to_start_is_reported_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)the server exited:.*no-such-option"):
        ServerProcess(tmp_path, "--no-such-option").start()


def test_a_started_server_is_ready_and_leaves_no_process(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        assert httpx.get(f"{server.base_url}/healthz", trust_env=False).status_code == 200
        processes = [(root := psutil.Process(server.pid)), *root.children(recursive=True)]
    assert not any(process.is_running() for process in processes)


def test_it_comes_back_on_the_same_port_after_kill_9(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        url = server.base_url
        server.kill()
        server.start()
        assert server.base_url == url


def test_sigterm_ends_it_with_code_0(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        assert server.terminate() == 0


def test_the_developers_environment_does_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEETING_PUSH_PORT", "not a number")
    with ServerProcess(tmp_path) as server:
        assert server.is_ready()
