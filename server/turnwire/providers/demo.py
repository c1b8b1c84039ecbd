"""A model for those who have none: it streams an answer made from the question, and can fail in every way there is.

The same question gets the same answer, so a person sees at once what a lost connection or a second tab does to it, and
a test knows the text beforehand. The variants let people who build clients see each failure without breaking anything.
It calls nobody and costs nothing.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, get_args

from turnwire.core.entries import Content, Finish, Message, ProviderEvent, UsageReport
from turnwire.ports import Failure, StepRequest

Variant = Literal["plain", "slow", "error-before", "error-after", "stall", "long", "tool", "reasoning"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

LONG_DELTAS: Final = 10_000
_LONG_BATCH: Final = 10
_QUOTE_CHARS_MAX: Final = 200
_DELAYS_MS: Final[Mapping[Variant, float]] = {"slow": 150, "long": 1}
_DELAY_MS: Final = 20

_OPENINGS: Final = (
    "Here is what I make of it, piece by piece.",
    "Let me take that apart and put it together again.",
    "A fair question — I shall answer it slowly, so that you can watch.",
)
_CLOSINGS: Final = (
    "Reload this page, or open a second one: you will find *every* word once, in order. 🧵",
    "Pull the plug while I talk, and plug it in again: the rest will be here. 🔌",
    "Press Stop whenever you like: what you have seen stays. ✋",
)


@dataclass(frozen=True, slots=True)
class _Question:
    """What the demo knows of a request."""

    text: str
    images: int
    earlier: int
    """User messages before this one."""
    tool_result: str | None

    @property
    def seed(self) -> int:
        return zlib.crc32(self.text.encode())


class Demo:
    """ports.Provider. `delay_ms` is the time between two deltas (`long` sends several at once); None is the variant's
    own."""

    def __init__(self, variant: Variant = "plain", *, delay_ms: float | None = None) -> None:
        self.name = "demo" if variant == "plain" else f"demo/{variant}"
        self._variant: Variant = variant
        self._delay_s = (_DELAYS_MS.get(variant, _DELAY_MS) if delay_ms is None else delay_ms) / 1000

    @asynccontextmanager
    async def stream(self, request: StepRequest) -> AsyncGenerator[AsyncIterator[Sequence[ProviderEvent]]]:
        """See ports.Provider."""
        if self._variant == "error-before":
            raise Failure("upstream_failed", "demo/error-before always fails")
        async with aclosing(self._events(_question_of(request.messages))) as events:
            yield events

    async def _events(self, question: _Question) -> AsyncGenerator[Sequence[ProviderEvent]]:
        if self._variant == "stall":
            await asyncio.Event().wait()
        batches = _SCRIPTS.get(self._variant, _plain)(question)
        for batch in batches:
            await asyncio.sleep(self._delay_s)
            yield batch
        if self._variant == "error-after":
            raise Failure("truncated", "demo/error-after always breaks off")


def demo_answer(messages: Sequence[Message]) -> str:
    """The text with which the plain demo answers these messages."""
    return "".join(_pieces(_answer_to(_question_of(messages))))


# --- what it says ----------------------------------------------------------------------------------------------------


def _plain(question: _Question) -> list[list[ProviderEvent]]:
    return _ended([_texts(0, _answer_to(question))], question, "stop")


def _broken_off(question: _Question) -> list[list[ProviderEvent]]:
    return [[content] for content in _texts(0, _answer_to(question))[:12]]


def _reasoning(question: _Question) -> list[list[ProviderEvent]]:
    thought = f"They wrote {len(question.text)} characters. I will count the words, then repeat them back."
    reasoning = [Content(0, "reasoning", piece) for piece in _pieces(thought)]
    return _ended([reasoning, _texts(1, _answer_to(question))], question, "stop")


def _tool(question: _Question) -> list[list[ProviderEvent]]:
    """Asks for the time, and says it once it was told."""
    if question.tool_result is not None:
        return _ended([_texts(0, f"The tool says: `{question.tool_result}`. Thank you!")], question, "stop")
    call = [
        Content(1, "tool_call", "", f"demo-{question.seed:08x}-{question.earlier}", "get_time"),
        *(Content(1, "tool_call", piece) for piece in ('{"zone"', ": ", '"UTC"}')),
    ]
    return _ended([_texts(0, "I shall look at the clock for that."), call], question, "tool_calls")


def _long(question: _Question) -> list[list[ProviderEvent]]:
    contents = [Content(0, "text", f"{number} ") for number in range(1, LONG_DELTAS)]
    whole: list[ProviderEvent] = [*contents, Content(0, "text", "end.", last=True)]
    batches = [whole[start : start + _LONG_BATCH] for start in range(0, len(whole), _LONG_BATCH)]
    return [*batches, [_usage(question, len(whole)), Finish("stop")]]


_SCRIPTS: Final[Mapping[Variant, Callable[[_Question], list[list[ProviderEvent]]]]] = {
    "error-after": _broken_off,
    "long": _long,
    "reasoning": _reasoning,
    "tool": _tool,
}


def _ended(
    parts: Sequence[Sequence[Content]], question: _Question, reason: Literal["stop", "tool_calls"]
) -> list[list[ProviderEvent]]:
    """One delta at a time, each part's last one marked, then usage and the end."""
    batches: list[list[ProviderEvent]] = []
    for part in parts:
        part[-1].last = True
        batches.extend([content] for content in part)
    return [*batches, [_usage(question, len(batches)), Finish(reason)]]


def _texts(part: int, text: str) -> list[Content]:
    return [Content(part, "text", piece) for piece in _pieces(text)]


def _pieces(text: str) -> list[str]:
    """Words with the space before them, long ones in two, as models send them."""
    words = re.findall(r"\s*\S{1,8}", text)
    return [*words, text[sum(map(len, words)) :]] if text[-1:].isspace() else words


def _usage(question: _Question, output_tokens: int) -> UsageReport:
    return UsageReport(len(question.text.split()) + 8, output_tokens)


def _answer_to(question: _Question) -> str:
    words = question.text.split()
    longest = max(words, key=len, default="(nothing)")[:_QUOTE_CHARS_MAX]
    quote = " ".join(words)[:_QUOTE_CHARS_MAX]
    lines = [
        _OPENINGS[question.seed % len(_OPENINGS)],
        f"> {quote or '…'}",
        f"- **{len(words)}** {'word' if len(words) == 1 else 'words'}, {len(question.text)} characters — "
        f"{len(question.text.encode())} bytes in UTF-8",
        f"- the longest of them is `{longest}`, or backwards `{longest[::-1]}`",
        f"- in small capitals, more or less: {quote[:40].upper() or '∅'} ✨",
    ]
    if question.images:
        lines.append(f"- and {question.images} image(s), which I cannot see 🙈")
    if question.earlier:
        lines.append(f"This is your message number **{question.earlier + 1}** here, so I do remember the others.")
    lines.append("Naïve? Perhaps; I am only a demo — 日本語もどうぞ — and no model was asked. ")
    lines.append(_CLOSINGS[question.seed // 7 % len(_CLOSINGS)])
    return "\n\n".join(lines).replace("\n\n- ", "\n- ")


def _question_of(messages: Sequence[Message]) -> _Question:
    asked = [message for message in messages if message.role == "user"]
    parts = asked[-1].parts if asked else ()
    text = "".join(str(part["text"]) for part in parts if part["type"] == "text")
    images = sum(part["type"] == "image" for part in parts)
    last = messages[-1] if messages else None
    result = "".join(str(part["text"]) for part in last.parts) if last is not None and last.role == "tool" else None
    return _Question(text, images, max(0, len(asked) - 1), result)
