"""How many tokens a text has, guessed from its bytes, because every model cuts texts its own way.

Two guesses for two purposes. A context must fit, so what goes into it is counted by `tokens_at_most`: above what the
tokenizers of common models make of prose in forty languages, of code, data and numbers. What a service used and
did not tell is counted by `tokens_likely`: about the middle of them. tests/core/token_counts.json has the texts and the
counts of eight tokenizers; noise (random characters, rare signs in a row) can have more tokens than the first says.

Each byte weighs what its kind costs at the dearest of those tokenizers: letters are cheap, because words are tokens;
digits are a token each at some; a character of a script that few texts are written in is cut into its bytes.
"""

from typing import Final

_HUNDREDTHS: Final = 100
_LIKELY: Final = 160
"""Hundredths of the upper guess that make one likely token."""

_RUN_BYTES: Final = 24
"""No word is so long: keys, hashes, base64. Hardly two of their characters in a row are one token."""

_RUN_WEIGHT: Final = 40
_DIGITS = range(0x30, 0x3A)
_UPPER = range(0x41, 0x5B)
_LOWER = range(0x61, 0x7B)


def _weight_of(byte: int) -> int:
    """Hundredths of a token. Of a character of several bytes the first one counts."""
    if byte in _LOWER:
        return 44
    if byte == 0x20:
        return 50
    if byte in _UPPER:
        return 60
    if byte in _DIGITS:
        return 103
    if byte < 0x20 or byte == 0x7F:
        return 140
    if byte < 0x80:
        return 92
    if byte < 0xC0:
        return 0
    if byte in (0xD0, 0xD1):
        return 75  # Cyrillic
    if byte in (0xCC, 0xCD, 0xD4, 0xD5, 0xD6) or 0xDC <= byte <= 0xDF:
        return 210  # accents on their own, Armenian, Syriac, N'Ko
    if byte <= 0xDB:
        return 125  # Latin with accents, Greek, Hebrew, Arabic
    if byte == 0xE0:
        return 250  # the scripts of India, Thai
    if byte in (0xE1, 0xE2, 0xEF):
        return 320  # Georgian, Ethiopic, Khmer, signs
    if byte < 0xF0:
        return 180  # Chinese, Japanese, Korean
    return 400  # emoji


_WEIGHTS: Final = sorted({_weight_of(byte) for byte in range(256)} - {0})
_KINDS: Final = bytes(_WEIGHTS.index(_weight_of(byte)) if _weight_of(byte) else len(_WEIGHTS) for byte in range(256))
"""For each byte the place of its weight among the weights."""

_WORD_BYTES: Final = frozenset([*_DIGITS, *_UPPER, *_LOWER, *b"+/_=-"])
_WORDS: Final = bytes(0x77 if byte in _WORD_BYTES else 0x20 for byte in range(256))


def hundredths_of(text: str) -> int:
    """The upper guess in hundredths of a token. Of a text in pieces it is the sum, or a little less."""
    encoded = text.encode()
    kinds = encoded.translate(_KINDS)
    hundredths = sum(kinds.count(kind) * weight for kind, weight in enumerate(_WEIGHTS))
    runs = encoded.translate(_WORDS).count(b"w" * _RUN_BYTES)
    return hundredths + runs * _RUN_BYTES * _RUN_WEIGHT


def tokens_at_most(text: str) -> int:
    return -(-hundredths_of(text) // _HUNDREDTHS)


def tokens_likely(text: str) -> int:
    return likely_of(hundredths_of(text))


def likely_of(hundredths: int) -> int:
    """The likely tokens of texts whose upper guesses add up to `hundredths`."""
    return -(-hundredths // _LIKELY)
