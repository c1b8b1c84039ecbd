"""Where a browser is looked for."""

import os
from pathlib import Path

import pytest

from tests.support import browser


def nowhere(_name: str) -> None:
    return None


def only(known: str) -> "dict[str, str]":
    return {known: f"/usr/bin/{known}"}


def test_the_program_that_the_variable_names_goes_before_all(tmp_path: Path) -> None:
    program = tmp_path / "my browser"
    program.write_text("")
    program.chmod(0o755)
    assert browser.find({browser.VARIABLE: str(program)}) == str(program)
    # One that is not there is no reason to take another.
    assert browser.find({browser.VARIABLE: str(tmp_path / "gone")}) is None


@pytest.mark.parametrize("name", browser.NAMES)
def test_every_name_on_the_path_is_tried(name: str, tmp_path: Path) -> None:
    assert browser.find({}, only(name).get, tmp_path) == f"/usr/bin/{name}"


def test_applications_of_a_mac_are_tried(tmp_path: Path) -> None:
    program = tmp_path / "Google Chrome.app/Contents/MacOS/Google Chrome"
    program.parent.mkdir(parents=True)
    program.write_text("")
    assert browser.find({}, nowhere, tmp_path) == str(program)


def test_without_one_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv(browser.VARIABLE, "no-such-browser")
    browser.main()
    said = capsys.readouterr().err
    assert "Chromium" in said and "apt-get install" in said and browser.VARIABLE in said
