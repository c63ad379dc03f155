"""The audit of locked packages: pip-audit itself, asking a database on this machine."""

import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import audit

ENTRY = "- {package: %s, ids: [X-1], what: something that is bad, why: it is never reached here, review: 2026-01-31}"


@pytest.fixture
def database():
    """The audit against a database that speaks OSV, the advisories it knows, and the packages asked about."""
    known, asked = {}, []

    class Database(BaseHTTPRequestHandler):
        def do_POST(self):
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            asked.append(name)
            vulns = [
                {"id": advisory, "summary": "bad", "affected": [{"package": {"name": name, "ecosystem": "PyPI"}}]}
                for advisory in known.get(name, [])
            ]
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1/query"
        yield ["-s", "osv", "--osv-url", address, "--progress-spinner", "off"], known, asked
        server.shutdown()


def test_every_locked_package_is_asked_about_and_accepted_advisories_pass(database, capfd):
    options, known, asked = database
    known["diskcache"] = ["GHSA-w8v5-vhqr-4h9v"]
    assert audit.main(options) == 0
    assert {"torch", "dvc", "mlflow", "pyarrow", "diskcache", "opencv-python"} <= set(asked)
    assert len(set(asked)) > 150
    assert "1 ignored" in capfd.readouterr().err


def test_any_other_advisory_fails_the_audit(database, capfd):
    options, known, _ = database
    known["dvc"] = ["PYSEC-2099-1"]
    assert audit.main(options) == 1
    assert "PYSEC-2099-1" in capfd.readouterr().out


def test_accepted_advisories_are_complete_current_and_of_locked_packages():
    day = datetime.date(2026, 1, 31)
    texts = [(audit.REQUIREMENTS / name).read_text() for name in ("advisories.yaml", "all.txt")]
    assert "CVE-2025-69872" in audit.accepted(*texts, day)
    assert audit.accepted("", "", day) == []
    assert audit.accepted(ENTRY % "six", "six==1\n", day) == ["X-1"]
    for text, today, message in (
        (ENTRY % "gone", day, "gone; drop"),
        ("- {package: six}", day, "complete it"),
        ((ENTRY % "six").replace("}", ", extra: 1}"), day, "complete it"),
        (ENTRY % "six", datetime.date(2026, 2, 1), "X-1 of six overdue since 2026-01-31"),
    ):
        with pytest.raises(ValueError, match=message):
            audit.accepted(text, "six==1\n", today)
