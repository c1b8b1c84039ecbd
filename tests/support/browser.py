"""The browser of tests/browser: found where people have one, else installed where that can be done unasked.

`python -m tests.support.browser` does both and says what is missing; `make test` runs it. It never fails: without a
browser the tests that need one skip, and say what this says.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from playwright.async_api import Browser, Playwright

VARIABLE = "TURNWIRE_TEST_BROWSER"
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "microsoft-edge-stable",
    "msedge",
)
MAC_APPS = ("Chromium", "Google Chrome", "Microsoft Edge")
MISSING = (
    "The tests of the page need Chromium, Chrome or Edge, and there is none here: install one, on Debian with "
    f"'apt-get install chromium', or name its program in {VARIABLE}."
)

# Playwright's own switches keep a browser quiet too; these hold whatever a later release of it does. The browser shows
# our page and does nothing else: no first-run page, no update, no talk with its maker, no way out but loopback.
SWITCHES = (
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    "--no-proxy-server",
)


def find(
    environment: Mapping[str, str] = os.environ,
    which: Callable[[str], str | None] = shutil.which,
    applications: Path = Path("/Applications"),
) -> str | None:
    """The browser's program; the one that the variable names goes before all."""
    if named := environment.get(VARIABLE):
        return which(named)
    apps = (applications / f"{app}.app/Contents/MacOS/{app}" for app in MAC_APPS)
    found = (*map(which, NAMES), *(str(app) for app in apps if app.exists()))
    return next((program for program in found if program is not None), None)


def install() -> None:
    """Debian's Chromium and one font, if this is root on a Debian; without a word elsewhere."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    apt = ("apt-get", "-qq", "-o=Dpkg::Use-Pty=0")
    packages = ("chromium", "fonts-liberation")
    for command in ((*apt, "update"), (*apt, "install", "--yes", "--no-install-recommends", *packages)):
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{' '.join(command)} failed:\n{done.stdout}", file=sys.stderr)
            return


async def launch(playwright: Playwright) -> Browser:
    """The browser, without a window. Raises LookupError where there is none."""
    program = find()
    if program is None:
        raise LookupError(MISSING)
    return await playwright.chromium.launch(
        executable_path=program,
        args=list(SWITCHES),
        # A browser refuses to put root into a sandbox.
        chromium_sandbox=sys.platform != "linux" or os.geteuid() != 0,
    )


def main() -> None:
    if find() is None:
        print("Installing Chromium for the tests of the page, if that can be done ...")
        install()
        if find() is None:
            print(MISSING, file=sys.stderr)


if __name__ == "__main__":
    main()
