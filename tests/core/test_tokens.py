"""The guesses of tokens, against what real tokenizers make of texts in many languages, of code, of data and of noise.

`token_counts.json` has the texts, ours, and the counts of eight tokenizers, taken once: no tokenizer runs here.
"""

import json
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import pytest
from hypothesis import given

from tests.core.generated import properly, texts
from turnwire.core.tokens import hundredths_of, likely_of, tokens_at_most, tokens_likely

SAMPLES: dict[str, Any] = json.loads(Path(__file__).with_name("token_counts.json").read_text(encoding="utf-8"))

NOISE = {
    "spaced_letters": 0.9,
    "integers": 0.9,
    "random_ascii": 0.8,
    "rand_bmp": 0.7,
    "rand_astral": 0.99,
    "rare_cjk": 0.55,
    "zalgo": 0.95,
    "combining": 0.9,
    "chem": 0.9,
    "ipv6": 0.95,
    "chat_short": 0.95,
    "tibetan": 0.8,
}
"""Where the upper guess is below the dearest tokenizer, and how much of it it is at least."""


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_upper_guess_is_above_every_tokenizer_but_for_noise(name: str) -> None:
    sample = SAMPLES[name]
    assert len(sample["tokens"]) == 8
    assert tokens_at_most(sample["text"]) >= NOISE.get(name, 1) * max(sample["tokens"].values())


def test_the_upper_guess_leaves_plain_prose_and_code_half_of_a_context() -> None:
    for name in ("english", "german", "french", "spanish", "chinese", "japanese", "python", "json"):
        sample = SAMPLES[name]
        assert tokens_at_most(sample["text"]) <= 2 * max(sample["tokens"].values())


def test_the_likely_guess_is_about_the_middle() -> None:
    ratios = [
        tokens_likely(sample["text"]) / median(sample["tokens"].values())
        for name, sample in SAMPLES.items()
        if name not in NOISE
    ]
    assert 0.9 < geometric_mean(ratios) < 1.2
    assert min(ratios) > 0.7


@properly
@given(texts, texts)
def test_a_longer_text_has_no_fewer_tokens_and_pieces_add_up_to_the_whole(text: str, more: str) -> None:
    assert hundredths_of(text + more) >= hundredths_of(text) + hundredths_of(more)
    assert tokens_at_most(text + more) >= max(tokens_at_most(text), tokens_at_most(more))


@properly
@given(texts)
def test_the_likely_guess_is_below_the_upper_one_and_no_text_is_free(text: str) -> None:
    assert bool(text) == bool(tokens_likely(text))
    assert tokens_likely(text) <= tokens_at_most(text) <= 2 * len(text.encode())
    assert tokens_likely(text) == likely_of(hundredths_of(text))


def test_a_key_or_a_hash_counts_nearly_a_token_a_character() -> None:
    key = "sk9xQ2hVt7LmZp4RbN8wYc3K"
    assert tokens_at_most(key) >= 0.9 * len(key)
    assert tokens_at_most(f"{key[:12]} {key[12:]}") < tokens_at_most(key)
