"""A real browser for tests, driven over a pipe with nothing but the standard library."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find_browser():
    """The path of Chromium; without one the test is skipped, or fails where CATCHMENT_REQUIRE_BROWSER=1 asks for it."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        message = "no Chromium found: install it (Debian: apt-get install chromium)"
        if os.environ.get("CATCHMENT_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


class Browser:
    """Headless Chromium with one page; use it as a context manager.

    ``requests`` holds the addresses asked for since the last ``open``, ``problems`` exceptions and console errors.
    """

    def __init__(self, timeout=30.0):
        self.timeout = timeout
        self.requests, self.problems, self._events = [], [], []
        self._numbers, self._buffer = itertools.count(1), b""
        self._session = None

    def __enter__(self):
        path = find_browser()
        self._profile = tempfile.mkdtemp(prefix="catchment-browser-")
        # The browser reads commands from its descriptor 3 and writes answers to 4.
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        command = [path, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        # A shell moves the two descriptors to where the browser looks for them.
        script = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(commands_out, answers_in),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **parameters):
        """A command of the DevTools protocol; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, page):
        """Load a file or an address, and wait until it is there."""
        self.requests.clear()
        self.problems.clear()
        self._events.clear()
        address = page.resolve().as_uri() if isinstance(page, Path) else page
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + self.timeout
        while "Page.loadEventFired" not in self._events:
            self._note(self._read(deadline))

    def size(self, width, height=900):
        """Give the page a width and height in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def colour_scheme(self, scheme):
        """ "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression):
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key):
        """Press a key: a name such as Tab or Enter, or a character."""
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        event = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path, *, whole_page=True):
        """Write a PNG of what the page looks like."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def _read(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer within {self.timeout} s")
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(parameters["exceptionDetails"].get("text", "exception"))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.problems.append(str([argument.get("value") for argument in parameters["args"]]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(parameters["entry"]["text"])
        elif method is not None:
            self._events.append(method)
