"""A headless Chromium, spoken to over its debugging socket on loopback."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-dev-shm-usage",
    "--disable-features=BackForwardCache", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0",
)  # fmt: skip


def browser() -> str | None:
    """The browser's path, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Tab:
    """One page. ``asked``: addresses that it wanted. ``errors``: what it logged as an error."""

    socket: Any
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loads: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def _take(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.socket.recv(timeout=120))
        kind, facts = said.get("method"), said.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.asked.append(facts["request"]["url"])
        elif kind == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.errors.append(facts["entry"]["text"])
        elif kind == "Page.loadEventFired":
            self.loads += 1
        return said

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command and its answer."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (said := self._take()).get("id") != number:
            pass
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    def js(self, text: str) -> Any:
        """Value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=text, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def go(self, address: str) -> None:
        """Open a page, and wait until it is loaded."""
        before = self.loads
        self.call("Page.navigate", url=address)
        self._loaded(before)

    def follow(self, text: str) -> None:
        """Run what leads to another page, and wait until that is loaded."""
        before = self.loads
        self.js(f"setTimeout(() => {{ {text} }}, 50); 0")  # answered before the page that answers is gone
        self._loaded(before)

    def _loaded(self, before: int) -> None:
        while self.loads == before:
            self._take()

    def wide(self, pixels: int) -> None:
        """Look at it in a window of this width."""
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=900, deviceScaleFactor=1, mobile=False)


@contextmanager
def opened(path: str, folder: Path) -> Iterator[Tab]:
    """An empty tab of the browser at ``path``, with its profile in ``folder``."""
    from websockets.sync.client import connect

    log = (folder / "browser.log").open("w")
    words = [path, *QUIET, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            note = folder / "profile" / "DevToolsActivePort"
            while not note.is_file() or len(note.read_text().split()) < 2:
                assert process.poll() is None, (folder / "browser.log").read_text()[-2000:]
                time.sleep(0.05)
            port = note.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as reply:
                page = next(p for p in json.load(reply) if p["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                tab = Tab(socket)
                for part in ("Page", "Network", "Log"):
                    tab.call(f"{part}.enable")
                yield tab
                with suppress(Exception):
                    socket.send(json.dumps({"id": -1, "method": "Browser.close"}))
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
