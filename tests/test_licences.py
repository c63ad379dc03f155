"""The table of licences is that of the lock."""

import importlib.metadata

import pytest

from tools import licences


def test_every_locked_package_has_its_row_and_no_other():
    shown = {name: version for name, (version, _) in licences.rows(licences.PAGE.read_text()).items()}
    assert shown == licences.locked(licences.LOCK.read_text()), "run `make licences`"


def test_rows_are_what_installed_packages_state():
    """Of one package whose statement is the same in all locked versions, in each of the three ways to state it."""
    for name, text in (("alembic", "MIT"), ("click-didyoumean", "MIT"), ("blinker", "MIT License"), ("huey", "MIT")):
        assert licences.licence(importlib.metadata.distribution(name)) == text
        assert licences.rows(licences.PAGE.read_text())[name][1] == text


def test_versions_for_several_markers_stand_in_one_row():
    text = 'a-b==1.10 ; python_version < "3.11" \\\n    --hash=sha256:0\n    # via c\na-b==1.9 \\\nz==2\n'
    assert licences.locked(text) == {"a-b": "1.9, 1.10", "z": "2"}


def test_a_package_without_a_row_is_named():
    page = licences.START + "| six | 1 | MIT |\n" + licences.END
    assert licences.table("six==2\n", page, []).keys() == {"six"}
    with pytest.raises(licences.LicencesError, match=r"no-such-package==1.*pip download"):
        licences.table("no-such-package==1\n", page, [])
    with pytest.raises(licences.LicencesError, match="marks"):
        licences.rows("")
