"""Debian's chromium without a window, driven by its remote debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

_SECONDS = 30.0
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--disable-extensions", "--remote-allow-origins=*",
)  # fmt: skip


class Tab:
    """A page in the browser, and all that it has requested and complained of."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        #: addresses
        self.requests: list[str] = []
        #: errors and warnings of the console, and exceptions
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "Performance"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self._connection.recv())
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {event['message']}")
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.problems.append(event["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(str(event["args"]))

    def value(self, expression: str) -> Any:
        """Return the value of an expression, a promise's when it has one."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + _SECONDS
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)
        return value

    def open(self, path: Path) -> float:
        """Open a page, until it is loaded and its script has run; return the seconds of a processor that this took."""
        self.requests.clear()
        self.problems.clear()
        began = self._seconds()
        self("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete' && document.querySelector('#rows tbody tr') !== null")
        return self._seconds() - began

    def _seconds(self) -> float:
        """Return the time that the page's process has used a processor, whatever else the machine does."""
        metrics = self("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "ProcessTime"))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one point of the window, and release it at another."""
        x, y = start
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y)
        for step in range(1, 6):
            self._mouse("mouseMoved", x + (end[0] - x) * step / 5, y + (end[1] - y) * step / 5)
        self._mouse("mouseReleased", *end)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        pressed = 1 if kind != "mouseReleased" else 0
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=pressed, clickCount=1)

    def screenshot(self, path: Path, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Write a PNG of the window."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(1.0)
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def chromium() -> Iterator[Tab]:
    """A browser with one empty tab; both end with the block."""
    with tempfile.TemporaryDirectory() as profile:
        environ = {**os.environ, "HOME": profile}
        words = ["chromium", *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        log = subprocess.DEVNULL
        with subprocess.Popen(words, stdout=log, stderr=log, env=environ) as process:
            try:
                port = _until(lambda: _port(Path(profile, "DevToolsActivePort")))
                with _socket(_tab_address(port)) as connection:
                    yield Tab(connection)
            finally:
                process.terminate()
                process.wait(20)
        time.sleep(0.2)  # its children write to the profile for a moment


@contextmanager
def _socket(address: str) -> Iterator[websocket.WebSocket]:
    connection = websocket.create_connection(address, timeout=_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


def _port(path: Path) -> str:
    return path.read_text().splitlines()[0] if path.exists() and path.read_text().strip() else ""


def _tab_address(port: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/json", timeout=_SECONDS) as answer:
        tabs = json.load(answer)
    return next(str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page")


def _until(condition: Callable[[], str]) -> str:
    deadline = time.monotonic() + _SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "chromium has not started"
        time.sleep(0.05)
    return value
