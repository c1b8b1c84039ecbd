"""What services of each dialect send becomes the same events however it is cut, and its end is never made up."""

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.providers.recorded import (
    DECODERS,
    EXPECTED,
    RECORDINGS,
    contents,
    decoder_of,
    dialect_of,
    outcome_of,
    proved_at,
    recording,
)
from turnwire.core.entries import Content, Finish
from turnwire.providers.upstream_errors import failure_of_status

WHOLE = [name for name, (_, failure) in EXPECTED.items() if failure is None]

STATUSES: dict[str, tuple[str, bool, int | None]] = {
    "openai_quota": ("upstream_rejected", False, None),
    "azure_filtered": ("upstream_rejected", False, None),
    "azure_rate_limit": ("upstream_busy", True, 6_500),
    "ollama_missing_model": ("upstream_rejected", False, None),
    "llama_cpp_loading": ("upstream_busy", True, None),
    "deepseek_balance": ("upstream_rejected", False, None),
    "groq_flex": ("upstream_busy", True, None),
    "mistral_rate_limit": ("upstream_busy", True, None),
    "together_overloaded": ("upstream_busy", True, None),
    "gemini_rate_limit": ("upstream_busy", True, 22_500),
    "anthropic_overloaded": ("upstream_busy", True, None),
    "anthropic_credit": ("upstream_rejected", False, None),
}
"""Kind, whether to try again, and when, of each answer that is none."""


def test_every_recording_has_its_expected_events_and_its_line_in_the_readme() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.sse")} == set(EXPECTED)
    assert {path.stem for path in RECORDINGS.glob("*.http")} == set(STATUSES)
    readme = (RECORDINGS / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in RECORDINGS.iterdir() if path.suffix in (".sse", ".http")]
    assert [name for name in files if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("dialect", DECODERS)
def test_every_dialect_has_a_success_and_a_failure_and_its_place_in_the_docs(dialect: str) -> None:
    failures = [failure is not None for name, (_, failure) in EXPECTED.items() if dialect_of(name) == dialect]
    assert set(failures) == {True, False}
    docs = (RECORDINGS.parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
    assert f"| `{dialect}` |" in docs


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recording_cut_at_any_byte_gives_the_same_events(name: str) -> None:
    same_however_cut(recording(name), name)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("name", ["vllm", "anthropic", "responses_refusal"])
def test_other_line_ends_are_as_good(name: str, line_end: bytes) -> None:
    same_however_cut(recording(name).replace(b"\n", line_end), name)


def same_however_cut(stream: bytes, name: str) -> None:
    expected = EXPECTED[name]
    assert outcome_of([stream], decoder_of(name)) == expected
    assert outcome_of((bytes([byte]) for byte in stream), decoder_of(name)) == expected
    for at in range(1, len(stream)):
        assert outcome_of([stream[:at], stream[at:]], decoder_of(name)) == expected, at


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_ends_anywhere_is_truncated_unless_its_end_is_proved(name: str) -> None:
    stream = recording(name)
    proof = proved_at(stream)
    whole = contents(EXPECTED[name])
    for at in range(len(stream)):
        events, failure = outcome_of([stream[:at]], decoder_of(name))
        seen = contents((events, failure))
        if at < proof:
            assert failure == "truncated", at
            assert not any(isinstance(event, Finish) for event in events), at
            assert whole[: len(seen)] == seen, at
        else:
            assert failure is None, at
            assert events[-1] == EXPECTED[name][0][-1], at
            assert seen == whole, at


@pytest.mark.parametrize("name", EXPECTED)
def test_each_part_ends_once_and_nothing_follows_its_last_delta(name: str) -> None:
    events, failure = EXPECTED[name]
    ended: set[int] = set()
    begun: list[int] = []
    for event in events:
        if isinstance(event, Content):
            assert event.part not in ended
            if event.part not in begun:
                begun.append(event.part)
            if event.last:
                ended.add(event.part)
            assert event.last or event.opaque is None
    assert begun == sorted(begun) == list(range(len(begun)))
    assert failure is not None or ended == set(begun)


@pytest.mark.parametrize("name", STATUSES)
def test_an_answer_that_is_none_is_the_failure_it_means_and_its_words_stay_inside(name: str) -> None:
    head, body = (RECORDINGS / f"{name}.http").read_text(encoding="utf-8").split("\n\n", 1)
    status_line, *lines = head.split("\n")
    status = int(status_line.split(" ")[1])
    headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
    failure = failure_of_status(status, headers, body.encode(), datetime(2026, 11, 20, tzinfo=UTC))
    assert (failure.kind, failure.may_retry, failure.retry_after_ms) == STATUSES[name]
    assert [words for words in texts_in(json.loads(body)) if " " in words and words in failure.detail] == []


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        return [words for item in cast("list[Any]", value) for words in texts_in(item)]
    return [value] if isinstance(value, str) else []
