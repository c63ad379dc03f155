"""Chromium as a reader uses it, told what to do through a pipe: no package and no driver is needed."""

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
        """Start with the empty folder ``profile``; Chromium reads from its file descriptor 3 and writes to 4."""
        (self.answers, theirs), (orders, self.orders) = os.pipe(), os.pipe()
        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # Through a shell, since Popen gives a child's files the numbers that they have here.
        shell = ["bash", "-c", f'exec "$@" 3<&{orders} 4>&{theirs}', "bash", *command]
        self.process = subprocess.Popen(shell, pass_fds=(orders, theirs), stderr=subprocess.DEVNULL)
        for end in (orders, theirs):
            os.close(end)
        self.rest, self.count, self.where, self.faults = b"", 0, {}, []
        (page,) = (t for t in self.order("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.order("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.where = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method, **parameters):
        """Do what the DevTools protocol calls ``method``; return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.where}
        os.write(self.orders, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                piece = os.read(self.answers, 1 << 16)
                assert piece, "Chromium ended"
                self.rest += piece
            text, _, self.rest = self.rest.partition(b"\0")
            told = json.loads(text)
            if told.get("id") == self.count:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            entry = told.get("params", {}).get("entry", {})
            if told.get("method") == "Runtime.exceptionThrown" or entry.get("level") == "error":
                self.faults.append(json.dumps(told["params"]))

    def open(self, address):
        """Open an address as somebody does who follows a link from elsewhere."""
        self.order("Page.navigate", url="about:blank")
        self.order("Page.navigate", url=address)

    def wait(self, expression, seconds=90):
        """Return the first value of JavaScript that is true; TimeoutError says what the page says instead."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.ask(expression):
                return value
            time.sleep(0.3)
        raise TimeoutError(f"expected {expression}, found this page:\n{self.ask('document.body.innerText')[:3000]}")

    def ask(self, expression):
        """Return what JavaScript makes of ``expression``; an object is only said to be there."""
        plain = f"(value => value instanceof Object ? true : value)({expression})"
        return self.order("Runtime.evaluate", expression=plain, returnByValue=True)["result"].get("value")

    def picture(self, file):
        """Write a PNG of what is in the window."""
        file.write_bytes(base64.b64decode(self.order("Page.captureScreenshot")["data"]))

    def close(self):
        """End Chromium."""
        with contextlib.suppress(OSError, AssertionError):
            self.where = {}
            self.order("Browser.close")
        self.process.wait(timeout=30)
        for end in (self.orders, self.answers):
            os.close(end)
