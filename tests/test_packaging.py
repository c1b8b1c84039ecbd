"""What people install and run: the lock, the wheel, the image and the commands that set them up.

No container engine is needed: the Dockerfile is linted and read, and what its steps rest on (a lock with a pin for all
that is asked for, a wheel with every file) is tested for itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# Whatever measures this process, or made it, has no business in the tools that it starts.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "MAKE", "MFLAGS"))
}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


# --- requirements.lock ---------------------------------------------------------------------------------------------


def pins() -> Iterator[tuple[Requirement, int]]:
    """Each pin of the lock with the number of its hashes."""
    for block in re.split(r"\n(?=\S)", LOCK):
        if not block.startswith("#"):
            head, *rest = block.splitlines()
            yield Requirement(head.removesuffix("\\").strip()), sum("--hash=sha256:" in line for line in rest)


def test_every_pin_of_the_lock_is_one_version_with_hashes() -> None:
    for pin, hashes in pins():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert hashes > 0, pin


def test_the_lock_names_no_host_and_no_folder() -> None:
    assert "://" not in LOCK
    assert not re.findall(r"^\s*(?:-[fier]|--(?!hash=)\S+)", LOCK, re.MULTILINE)
    assert "-e " not in LOCK and " @ " not in LOCK


def test_the_lock_pins_what_the_project_asks_for() -> None:
    locked = {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin, _ in pins()}
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        asked = Requirement(line)
        assert locked[canonicalize_name(asked.name)] in asked.specifier, f"{asked}: run `make lock`"


def test_what_is_installed_is_what_the_lock_says() -> None:
    listed = json.loads(run(tool("uv"), "pip", "list", "--format", "json", "--python", sys.executable).stdout)
    installed = {canonicalize_name(package["name"]): package["version"] for package in listed}
    expected = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin, _ in pins()
        if pin.marker is None or pin.marker.evaluate()
    }
    assert installed | expected == installed, "run `make test`, which installs the lock"


# --- the wheel -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("turnwire-*.whl")))


def test_the_wheel_has_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(folder.parent).as_posix()
        for folder in (ROOT / "protocol/turnwire_protocol", ROOT / "server/turnwire")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == expected


def test_the_wheel_is_typed_licensed_and_has_the_command(wheel: zipfile.ZipFile) -> None:
    names = {Path(name).name: name for name in wheel.namelist()}
    assert {"turnwire/py.typed", "turnwire_protocol/py.typed"} <= set(wheel.namelist())
    assert "LICENSE" in names
    assert "turnwire = turnwire.cli:app" in wheel.read(names["entry_points.txt"]).decode()


def test_the_source_archive_has_what_the_web_files_are_built_from(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    with tarfile.open(next(tmp_path.glob("turnwire-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    client = {name.removeprefix("clients/js/") for name in names if name.startswith("clients/js/")}
    assert {"package.json", "package-lock.json", ".npmrc", "scripts/build.js", "src/index.ts"} <= client
    assert {"Makefile", "requirements.lock", "protocol/schema/events.schema.json"} <= names
    assert not [name for name in client if name.startswith(("node_modules", "dist", "coverage"))]


# --- the client in JavaScript ---------------------------------------------------------------------------------------

CLIENT = ROOT / "clients/js"
PACKAGE = json.loads((CLIENT / "package.json").read_text(encoding="utf-8"))
PACKAGE_LOCK = (CLIENT / "package-lock.json").read_text(encoding="utf-8")


def test_the_clients_lock_has_hashes_and_says_nowhere_where_its_packages_come_from() -> None:
    locked = json.loads(PACKAGE_LOCK)["packages"]
    assert locked.pop("")["devDependencies"] == PACKAGE["devDependencies"]
    for name, package in locked.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
    assert "omit-lockfile-registry-resolved=true" in (CLIENT / ".npmrc").read_text().splitlines()


def test_the_client_has_no_dependency_and_the_projects_version_and_licence() -> None:
    assert not {"dependencies", "peerDependencies", "optionalDependencies"} & PACKAGE.keys()
    assert PACKAGE["version"] == PROJECT["version"]
    assert f'VERSION = "{PROJECT["version"]}"' in (CLIENT / "src/version.ts").read_text(encoding="utf-8")
    assert PACKAGE["license"] == PROJECT["license"]
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_no_package_runs_code_of_its_own_while_the_clients_tools_are_installed() -> None:
    assert "ignore-scripts=true" in (CLIENT / ".npmrc").read_text().splitlines()


# --- the image -----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), comments gone and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(verb, rest.strip()) for verb, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last_stage() -> dict[str, str]:
    """The instructions that make the image itself, the last of each kind."""
    stages = [index for index, (verb, _) in enumerate(instructions()) if verb == "FROM"]
    return dict(instructions()[stages[-1] :])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    linted = run(tool("hadolint"), "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, ""), linted.stdout + linted.stderr


def test_the_image_is_built_in_one_stage_and_runs_in_another() -> None:
    bases = [rest for verb, rest in instructions() if verb == "FROM"]
    assert len(bases) == 2
    assert bases[0].split()[0] == bases[1], "the environment is copied: both stages need the same interpreter"
    assert not re.search(r"pip|uv ", last_stage()["RUN"])


def test_the_base_of_the_image_is_a_named_release_of_python() -> None:
    (tag,) = {rest.split()[0] for verb, rest in instructions() if verb == "FROM"}
    assert re.fullmatch(r"python:3\.\d+-slim", tag)
    assert tag.removeprefix("python:").removesuffix("-slim") in {
        classifier.rpartition(" ")[2] for classifier in PROJECT["classifiers"]
    }


def test_the_image_runs_as_a_numbered_user_who_owns_the_data() -> None:
    stage = last_stage()
    user = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", stage["USER"])
    assert user
    assert f"--owner={user[1]} --group={user[2]} --mode=0700 /data" in stage["RUN"]
    assert json.loads(stage["VOLUME"]) == ["/data"]
    assert "TURNWIRE_DATA_DIR=/data" in stage["ENV"]


def test_the_image_starts_the_server_without_a_shell() -> None:
    stage = last_stage()
    assert json.loads(stage["CMD"]) == ["turnwire", "serve", "--host", "0.0.0.0", "--port", stage["EXPOSE"]]  # noqa: S104 - a container's own
    check = json.loads(stage["HEALTHCHECK"].partition("CMD")[2])
    assert check[:2] == ["python", "-c"]
    assert f"127.0.0.1:{stage['EXPOSE']}/livez" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")


def test_the_image_holds_no_secret_and_no_answer_to_who_may_come_in() -> None:
    for verb, rest in instructions():
        assert verb != "ARG"
        if verb == "ENV":
            assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD|TURNWIRE_AUTH", rest)


def test_what_the_image_copies_is_there_and_is_let_through() -> None:
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = {
        source
        for verb, rest in instructions()
        if verb == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_installs_from_the_lock_and_without_the_tools() -> None:
    (tools, dependencies, project) = [rest for verb, rest in instructions() if verb == "RUN"][:3]
    assert "--require-hashes" in tools
    assert "--constraint requirements.lock --requirement pyproject.toml" in dependencies
    assert "dev" not in dependencies and "--extra" not in dependencies
    assert "--no-deps --build-constraint requirements.lock" in project


def test_a_constraint_with_a_wrong_hash_stops_an_install(tmp_path: Path) -> None:
    # What the Dockerfile rests on: uv holds a file to the hashes of its pin also where the lock is only a constraint.
    package = tmp_path / "frames"
    package.mkdir()
    (package / "frames.py").write_text("")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "frames"\nversion = "1"\n[tool.hatch.build]\ninclude = ["frames.py"]\n'
    )
    assert run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=package).returncode == 0
    (tmp_path / "wrong.lock").write_text(f"frames==1 --hash=sha256:{'0' * 64}\n")
    install = (tool("uv"), "pip", "install", "--no-index", "--find-links", tmp_path, "--target", tmp_path / "site")

    held = run(*install, "--no-cache", "--constraint", tmp_path / "wrong.lock", "frames")

    assert held.returncode != 0
    assert "Hash mismatch" in held.stderr
    assert run(*install, "--no-cache", "frames").returncode == 0


# --- the commands --------------------------------------------------------------------------------------------------


def python_that(folder: Path, script: str) -> Path:
    """A stand-in for an interpreter that lacks something."""
    path = folder / "python-stand-in"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac',
            r"needs Python 3\.11 or newer, and \S+ is 3\.9\.2: .*PYTHON=",
        ),
        (
            'case "$2" in *ensurepip*) exit 1;; esac',
            r"cannot make virtual environments: .*apt-get install python3-venv",
        ),
    ],
    ids=["too-old", "no-venv"],
)
def test_make_says_in_a_sentence_what_python_lacks(tmp_path: Path, script: str, sentence: str) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    made = run("make", "serve", f"PYTHON={python_that(tmp_path, script)}", cwd=tmp_path)

    assert made.returncode != 0
    said, make_itself = made.stderr.splitlines()
    assert re.search(sentence, said)
    assert make_itself.startswith("make: ***")


def test_make_says_in_a_sentence_that_there_is_no_python(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    made = run("make", "serve", "PYTHON=python-nowhere", cwd=tmp_path)

    assert made.returncode != 0
    assert "needs Python 3.11 or newer, and there is no python-nowhere here" in made.stderr.splitlines()[0]


def test_the_gate_of_continuous_integration_is_make_test() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert run("bash", "-n", script).returncode == 0
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("exec make test")
