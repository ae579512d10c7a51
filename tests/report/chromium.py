"""A headless Chromium, spoken to over its DevTools pipe: no driver, no socket, nothing to install besides itself."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


def found():
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One browser with one page; collects what the page's console says."""

    def __init__(self, width=1180, height=900, flags=()):
        self._folder = tempfile.mkdtemp(prefix="pth2om-chromium-")
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()
        # Out of the way of 3 and 4, where the browser expects its ends.
        far_reads, far_writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in (reads, writes))

        def place():
            os.dup2(far_reads, 3)
            os.dup2(far_writes, 4)

        self._process = subprocess.Popen(
            [
                found(),
                *_FLAGS,
                *flags,
                f"--user-data-dir={self._folder}",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            preexec_fn=place,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(far_reads)
        os.close(far_writes)
        os.close(reads)
        os.close(writes)
        self._buffer, self._number = b"", 0
        self.complaints = []
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = None
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    _session = None

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, timeout):
        end = time.monotonic() + timeout
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("the browser is gone")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method = message.get("method", "")
        if method == "Runtime.exceptionThrown":
            self.complaints.append(message["params"]["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and message["params"]["type"] in ("error", "warning"):
            self.complaints.append(str(message["params"]["args"]))
        elif method == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}".strip())
        return message

    def open(self, path):
        """Open a file, or an address; wait until it is loaded."""
        address = path if isinstance(path, str) else path.resolve().as_uri()
        self.leave(lambda: self._call("Page.navigate", url=address))

    def follow(self, script):
        """Run what leads to another page, and wait for that."""
        self.leave(lambda: self._call("Runtime.evaluate", expression=script))

    def leave(self, act):
        """Do what leads to another page, and wait until that is loaded: a mark on this one is gone then.

        Events are not enough: a page may be about to load itself again.
        """
        self.run("window.left = true")
        act()
        self.until("!window.left && document.readyState === 'complete'", 60)

    def until(self, script, seconds=20):
        """Wait until an expression is true; pages may come and go meanwhile."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RuntimeError):
                if self.run(f"!!({script})"):
                    return
            if time.monotonic() > end:
                raise TimeoutError(script)
            time.sleep(0.05)

    def press(self, key, text="", modifiers=0):
        """One key, as from the keyboard: ``Tab``, ``Enter``, or a letter as ``text``."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
        shared = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": modifiers}
        sent = text or {"Enter": "\r", " ": " "}.get(key, "")
        self._call("Input.dispatchKeyEvent", type="keyDown" if sent else "rawKeyDown", text=sent, **shared)
        self._call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text):
        """Text into the field that has the focus."""
        self._call("Input.insertText", text=text)

    def run(self, script):
        """The value of a JavaScript expression; promises are waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def media(self, scheme="light", kind=""):
        self._call(
            "Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def picture(self, width=1180, height=900, scale=1):
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def paper(self):
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
