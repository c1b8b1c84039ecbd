"""Loading the guard that the settings name, and running one that is no coroutine function."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnwire import guard as guards
from turnwire.guard import load_guard
from turnwire.ports import InputGuard, ProposedTurn, Refusal
from turnwire.runtime.input_check import NOT_CHECKED, InputCheck
from turnwire.settings import Settings, SettingsError

TURN = ProposedTurn("alice", None, "s1", "t1", [{"type": "text", "text": "hi"}], "demo")

RULES = '''
"""An operator's own."""

import functools
import threading

from turnwire.ports import ProposedTurn, Refusal

go_on = threading.Event()
threads = []


async def check(turn: ProposedTurn) -> Refusal | None:
    return Refusal("async")


class Rules:
    async def __call__(self, turn):
        return Refusal(f"instance of {self.name}")

    def method(self, turn):
        return Refusal("method")

    def __init__(self, name):
        self.name = name


rules = Rules("Rules")
partly = functools.partial(lambda word, turn: Refusal(word), "partial")
number = 5


def plain(turn):
    threads.append(threading.current_thread().name)
    return None


def raises(turn):
    raise KeyError(turn.turn)


def leaves(turn):
    raise SystemExit(3)


def hangs(turn):
    threads.append(turn.turn)
    go_on.wait(30)
'''


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `shop` in the working folder, which is on no path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "__init__.py").write_text("")
    (shop / "guard.py").write_text(RULES)
    (shop / "broken.py").write_text("raise RuntimeError('no\\nlicence.')\n")
    (shop / "lacking.py").write_text("import turnwire_of_nobody\n")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def loaded(place: str) -> InputGuard:
    guard = load_guard(Settings(input_guard=place))
    assert guard is not None
    return guard


def test_without_the_setting_nobody_is_asked() -> None:
    assert load_guard(Settings()) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [("check", "async"), ("rules", "instance of Rules"), ("rules.method", "method"), ("partly", "partial")],
)
async def test_a_guard_is_a_coroutine_function_or_any_other_callable(name: str, says: str) -> None:
    assert await loaded(f"shop.guard:{name}")(TURN) == Refusal(says)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("shop.guards:check", "there is no module shop.guards"),
        ("shopp.guard:check", "there is no module shopp, here or where Python looks"),
        ("shop.guard:cheque", "shop.guard has no cheque"),
        ("shop.guard:rules.cheque", "shop.guard has no rules.cheque"),
        ("shop.guard:number", "that is nothing to call"),
        ("shop.guard:Rules", "that is a class: name an instance of it"),
        ("shop.broken:check", "importing shop.broken failed with RuntimeError: no licence"),
        ("shop.lacking:check", "failed with ModuleNotFoundError: No module named 'turnwire_of_nobody'"),
    ],
)
def test_a_guard_that_cannot_be_loaded_is_one_sentence(place: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(place)
    sentence = str(caught.value)
    assert sentence.startswith(f"TURNWIRE_INPUT_GUARD ([limits] input_guard) is '{place}', but ")
    assert why in sentence and "\n" not in sentence and sentence.endswith(".") and not sentence.endswith("..")


def module() -> object:
    return sys.modules["shop.guard"]


async def test_a_plain_function_runs_in_a_thread_of_its_own_and_its_exceptions_come_back() -> None:
    assert await loaded("shop.guard:plain")(TURN) is None
    assert vars(module())["threads"] == ["input guard"]
    with pytest.raises(KeyError):
        await loaded("shop.guard:raises")(TURN)
    with pytest.raises(RuntimeError, match="SystemExit"):
        await loaded("shop.guard:leaves")(TURN)


async def test_plain_functions_that_never_answer_hold_up_nobody_and_take_no_more_threads_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "THREADS_MAX", 3)
    hanging = loaded("shop.guard:hangs")
    check = InputCheck(hanging, deadline_ms=50, fails="closed")
    refusals = await asyncio.gather(*(check.refusal_of(TURN) for _ in range(8)))
    try:
        assert refusals == [NOT_CHECKED] * 8
        assert sum(thread.name == "input guard" for thread in threading.enumerate()) == 3
        assert len(vars(module())["threads"]) == 3
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "input guard")
    finally:
        vars(module())["go_on"].set()
    # Their places are free again, once they have ended.
    assert await asyncio.wait_for(hanging(TURN), 20) is None


def test_a_thread_that_ends_after_the_node_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    check = InputCheck(loaded("shop.guard:hangs"), deadline_ms=20, fails="open")
    assert asyncio.run(check.refusal_of(TURN)) is None
    vars(module())["go_on"].set()
    for thread in threading.enumerate():
        if thread.name == "input guard":
            thread.join(20)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_example_of_the_docs_does_what_they_say() -> None:
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    *_, example = page.partition("# shop/guard.py")
    Path("shop/example.py").write_text(example.partition("```")[0].partition("\n")[2])
    guard = loaded("shop.example:check")
    weather = ProposedTurn("alice", None, "s", "t", [{"type": "text", "text": "How is the weather?"}], "demo")
    assert asyncio.run(guard(TURN)) is None
    assert asyncio.run(guard(weather)) == Refusal("Ask about our shop.", "forbidden")
