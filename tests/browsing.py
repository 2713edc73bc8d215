"""Pages in a real browser without a network, watched for complaints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def watched(browser: Any, report: Path, drawn: str = "#front .scatterlayer") -> Iterator[Any]:
    """A page, opened offline once `drawn` is there; fails if it complained or asked for anything but itself."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    opened.on("request", lambda request: complaints.append(request.url) if request.url != report.as_uri() else None)
    opened.goto(report.as_uri())
    opened.wait_for_selector(drawn)
    yield opened
    context.close()
    assert not [c for c in complaints if not c.startswith(("data:", "blob:"))]
