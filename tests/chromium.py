"""Drives a headless Chromium over the Chrome DevTools Protocol: just enough for a test of one page.

A whole browser library would be a dependency fifty times the size of what is used here.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--mute-audio",
    "--remote-debugging-port=0",
)
MIDDLE = """(() => {{
  const element = document.querySelector({});
  element.scrollIntoView({{ block: "nearest" }});
  const {{ x, y, width, height }} = element.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
}})()"""
START_SECONDS, REPLY_SECONDS = 60.0, 60.0


def find() -> str | None:
    """The path of an installed Chromium or Chrome, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """One tab. `lines` holds what the page wrote to its console, `faults` what it threw or was refused."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.lines: list[str] = []
        self.faults: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result. Raises RuntimeError for what the browser refuses."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=REPLY_SECONDS))
            if message.get("id") == self._number:
                break
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.lines.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise. Raises RuntimeError for what it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 40.0) -> Any:
        """The first truthy value of an expression. Raises TimeoutError with what the console said."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"never true: {expression}\nfaults: {self.faults}\nconsole: {self.lines[-20:]}")

    def open(self, url: str, before: str = "") -> None:
        """Load a page; `before` is a script that runs ahead of the page's own."""
        if before:
            self.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def click(self, selector: str) -> None:
        """A real click in the middle of an element, so that it counts as the user's."""
        x, y = self.evaluate(MIDDLE.format(json.dumps(selector)))
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, kind: str, key: str, code: str) -> None:
        """`kind` is keyDown or keyUp."""
        self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code)

    def size(self, width: int, height: int, phone: bool = False, scale: float = 1.0) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """Media features, as in `prefer(**{"prefers-color-scheme": "dark"})`."""
        named = [{"name": name, "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", features=named)

    def screenshot(self, path: Path, see_through: bool = False) -> None:
        if see_through:
            self.send("Emulation.setDefaultBackgroundColorOverride", color={"r": 0, "g": 0, "b": 0, "a": 0})
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Close the tab. Idempotent."""
        with suppress(ConnectionClosed):
            self.send("Page.close")
        self._socket.close()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Chromium:
    """A browser with its own empty profile.

    with Chromium(tmp_path, "--use-fake-ui-for-media-stream") as browser:
        page = browser.page()
    """

    def __init__(self, profile: Path, *flags: str) -> None:
        program = find()
        assert program is not None, "find() tells whether there is one"
        self._profile = profile
        self._process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._pages: list[Page] = []

    def __enter__(self) -> Chromium:
        self._port = int(self._wait(lambda: (self._profile / "DevToolsActivePort").read_text().split()[0]))
        return self

    def __exit__(self, *_: object) -> None:
        for page in self._pages:
            page.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page(self) -> Page:
        """A new tab."""
        with connect(self._browser_url(), max_size=None) as control:
            control.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            while (answer := json.loads(control.recv(timeout=REPLY_SECONDS))).get("id") != 1:
                pass
        target = answer["result"]["targetId"]
        page = Page(connect(f"ws://127.0.0.1:{self._port}/devtools/page/{target}", max_size=None, ping_interval=None))
        self._pages.append(page)
        return page

    def _browser_url(self) -> str:
        path = (self._profile / "DevToolsActivePort").read_text().split()[1]
        return f"ws://127.0.0.1:{self._port}{path}"

    @staticmethod
    def _wait(ready: Callable[[], str]) -> str:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return ready()
            except (OSError, IndexError):
                if time.monotonic() > deadline:
                    raise TimeoutError("Chromium did not start") from None
                time.sleep(0.05)
