"""文档的网站：严格地造得出来；不向别处要任何东西；图画得出，链接出不了网站。"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from tests.system.web.browser import Browser
from tools.site import BUILD, ROOT, inside_only

ASKED: Final = "performance.getEntriesByType('resource').map(entry => entry.name)"

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm: it brings mermaid")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """测试的输出里不要访问日志。"""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """造好的网站的地址。"""
    built = subprocess.run(
        [sys.executable, ROOT / "tools" / "site.py"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    handler = functools.partial(Quiet, directory=str(BUILD / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_npm
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "page", ["index.html", "delivery.html", "life-of-a-message.html", "reference/rest.html"]
)
async def test_a_page_needs_no_other_host_and_draws_its_pictures(
    site: str, browser: Browser, page: str
) -> None:
    opened = await browser.page()
    await opened.open(f"{site}/{page}")
    await opened.wait_for("document.querySelector('article h1') !== null")
    await opened.wait_for("document.querySelectorAll('pre.mermaid').length === 0")
    asked = await opened.evaluate(ASKED)
    assert [url for url in asked if not url.startswith(site)] == []
    assert opened.problems == []


def test_a_link_out_of_the_docs_becomes_its_path() -> None:
    text = (
        "[`deploy/proxies/`](../deploy/proxies/)、[压测](../bench/README.md)，[送达](delivery.md)"
    )
    assert inside_only(text, Path("tuning.md")) == (
        "`deploy/proxies`、压测（`bench/README.md`），[送达](delivery.md)"
    )
    assert inside_only("[送达](../delivery.md)", Path("adr/0001.md")) == "[送达](../delivery.md)"
