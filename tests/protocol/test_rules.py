"""The rules and the page that explains them are one list."""

import ast
import re
from pathlib import Path

import pytest

from turnwire_protocol import rules
from turnwire_protocol.codes import LAST_ERRORS, RETRY_ADVICE, CloseCode, may_reconnect
from turnwire_protocol.commands import COMMAND_TYPES
from turnwire_protocol.events import NUMBERED_TYPES
from turnwire_protocol.rules import RULES, Rule, RuleBroken
from turnwire_protocol.values import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SOURCES = ROOT / "protocol" / "turnwire_protocol"


def rules_of_the_page() -> list[Rule]:
    found = re.findall(r"^\* \*\*([A-Z]+-\d+)\*\*( †)? (.+?)(?=\n\n|\n\* )", PAGE, re.MULTILINE | re.DOTALL)
    return [Rule(id, " ".join(text.split()), not unseen) for id, unseen, text in found]


def test_the_page_states_every_rule_once_and_in_the_same_words() -> None:
    told = rules_of_the_page()
    assert {rule.id: rule for rule in told} == RULES
    assert len(told) == len(RULES)


def test_the_page_names_no_rule_that_there_is_not() -> None:
    assert set(re.findall(r"\b[A-Z]{2,}-\d+\b", PAGE)) - {"UTF-8"} == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_is_one_sentence(rule: Rule) -> None:
    assert re.fullmatch(r"[A-Z`].+[^.]\.", rule.text)
    assert re.search(r"\. [A-Z]", rule.text) is None


def test_the_verifier_raises_exactly_the_rules_that_are_marked_as_checked() -> None:
    named: set[str] = set()
    for path in SOURCES.glob("grammar*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.update(re.findall(r"^[A-Z]+-\d+$", node.value))
    assert named == {id for id, rule in RULES.items() if rule.checked}


def test_a_broken_rule_says_which_where_and_what_it_says() -> None:
    broken = RuleBroken("SEQ-1", "session s: seq 3 comes behind 1")
    assert (broken.rule, broken.detail) == ("SEQ-1", "session s: seq 3 comes behind 1")
    assert str(broken) == f"SEQ-1: session s: seq 3 comes behind 1. The rule: {RULES['SEQ-1'].text}"


def test_a_rule_that_does_not_exist_cannot_be_broken() -> None:
    with pytest.raises(KeyError):
        RuleBroken("SEQ-99", "")


def test_no_id_is_given_twice() -> None:
    """A dict would keep silent about it."""
    tree = ast.parse(Path(rules.__file__).read_text(encoding="utf-8"))
    keys = [key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if key is not None
            and isinstance(key, ast.Constant)]  # fmt: skip
    assert len(keys) == len(set(keys)) == len(RULES)


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    lines = PAGE[PAGE.index(f"\n| {head}") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.replace(r"\|", "/").strip("|").split("|")] for line in lines]


def test_the_page_has_a_row_for_each_command_and_numbered_frame() -> None:
    assert {row[0].strip("`") for row in rows("command |")} == COMMAND_TYPES
    assert {row[0].strip("`") for row in rows("type |")} == NUMBERED_TYPES


def test_the_page_has_each_error_code_with_its_advice() -> None:
    told: dict[str, str] = {}
    for codes, advice, more_codes, more_advice in rows("answers a command"):
        for names, retry in ((codes, advice), (more_codes, more_advice)):
            told.update((name, retry.strip("`")) for name in re.findall(r"`(\w+)`", names))
    assert told == RETRY_ADVICE


def test_the_page_has_each_close_code_with_its_error_and_advice() -> None:
    told: set[int] = set()
    for numbers, _, errors, advice in rows("close |"):
        for number in map(int, numbers.split(", ")):
            told.add(number)
            assert set(re.findall(r"`(\w+)`", errors)) == LAST_ERRORS.get(CloseCode(number), frozenset())
            assert (advice == "stays away") is not may_reconnect(number)
    assert told == set(CloseCode)


def test_the_page_knows_the_limits_that_welcome_announces() -> None:
    assert "frame_bytes_max" in Limits.model_fields
    assert "`welcome.limits.frame_bytes_max`" in PAGE
