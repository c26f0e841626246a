"""写出 ``docs/reference/``（``make reference``）。"""

from __future__ import annotations

from . import written

for path, text in written().items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
