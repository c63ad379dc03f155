"""Chromium as a reader uses it, told what to do through its own pipe: no package and no driver is needed."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1500,1000",
)  # fmt: skip


class Tab:
    """One page of a browser that has no history; ``faults`` are the errors of its console and its scripts."""

    def __init__(self, profile):
        """Start with the empty folder ``profile``; to its third file descriptor we write, from the fourth we read."""
        (ours, answers), (theirs, orders) = os.pipe(), os.pipe()
        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # A shell, since Popen gives a child the numbers that its files have here.
        script = f'exec "$@" 3<&{theirs} 4>&{answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command], pass_fds=(theirs, answers), stderr=subprocess.DEVNULL
        )
        os.close(theirs), os.close(answers)
        self.orders, self.answers = os.fdopen(orders, "wb"), os.fdopen(ours, "rb")
        self.rest, self.count, self.session, self.faults = b"", 0, None, []
        (page,) = (t for t in self.order("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.order("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method, **parameters):
        """Do what the DevTools protocol calls ``method``; return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.orders.write(json.dumps(message).encode() + b"\0")
        self.orders.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _next(self):
        while b"\0" not in self.rest:
            piece = os.read(self.answers.fileno(), 1 << 16)
            assert piece, "Chromium ended"
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def _note(self, method, told):
        if method == "Runtime.exceptionThrown":
            self.faults.append(told["exceptionDetails"]["exception"].get("description", "an exception"))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def ask(self, expression):
        """Return what JavaScript makes of ``expression``."""
        return self.order("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, address):
        """Open an address as somebody does who clicks on it."""
        self.order("Page.navigate", url="about:blank")
        self.order("Page.navigate", url=address)

    def text(self):
        """Return the text that is on the page."""
        return self.ask("document.body ? document.body.innerText : ''")

    def wait(self, expression, seconds=90):
        """Return the first value of ``expression`` that is true; TimeoutError says what the page says instead."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.ask(f"(v => v instanceof Object ? true : v)({expression})"):
                return value
            time.sleep(0.3)
        raise TimeoutError(f"expected {expression}, found this page:\n{self.text()[:3000]}")

    def picture(self, file):
        """Write a PNG of what is in the window."""
        file.write_bytes(base64.b64decode(self.order("Page.captureScreenshot")["data"]))

    def close(self):
        """End Chromium."""
        with contextlib.suppress(OSError, AssertionError):
            self.session = None
            self.order("Browser.close")
        self.process.wait(timeout=30)
