"""Recorded answers of services, and what each of them is: the events, and the failure if it ends in one.

A recording's name begins with its dialect. recordings/README.md says what each one shows.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from turnwire.core.entries import Content, Finish, ProviderEvent, UsageReport
from turnwire.providers.anthropic_messages_decoder import AnthropicMessagesDecoder
from turnwire.providers.openai_chat_decoder import OpenAIChatDecoder
from turnwire.providers.openai_responses_decoder import OpenAIResponsesDecoder
from turnwire.providers.stream_decoder import StreamDecoder

RECORDINGS: Final = Path(__file__).with_name("recordings")

MAKER: Final = "maker"

Outcome = tuple[list[ProviderEvent], str | None]
"""All events, and the kind of failure that ended them."""

DECODERS: Final[Mapping[str, Callable[[], StreamDecoder]]] = {
    "anthropic": lambda: AnthropicMessagesDecoder(maker=MAKER),
    "responses": lambda: OpenAIResponsesDecoder(maker=MAKER),
    "deepseek": lambda: OpenAIChatDecoder(maker=MAKER, returns_reasoning=True),
    **dict.fromkeys(
        [
            "openai",
            "azure",
            "vllm",
            "ollama",
            "llama_cpp",
            "litellm",
            "openrouter",
            "groq",
            "mistral",
            "together",
            "gemini",
        ],
        lambda: OpenAIChatDecoder(maker=MAKER),
    ),
}
"""By dialect: all fourteen."""


def dialect_of(name: str) -> str:
    return next(dialect for dialect in DECODERS if name.startswith(dialect))


def decoder_of(name: str) -> StreamDecoder:
    """A new decoder for a recording."""
    return DECODERS[dialect_of(name)]()


def recording(name: str) -> bytes:
    return (RECORDINGS / f"{name}.sse").read_bytes()


def outcome_of(chunks: Iterable[bytes], decoder: StreamDecoder) -> Outcome:
    """What a caller sees of these chunks."""
    events: list[ProviderEvent] = []
    for piece in chunks:
        events.extend(decoder.feed(piece))
        if decoder.failure is not None:
            return events, decoder.failure.kind
    events.extend(decoder.end())
    return events, None if decoder.failure is None else decoder.failure.kind


def contents(outcome: Outcome) -> list[ProviderEvent]:
    """The pieces of the answer, without the marks behind them."""
    return [event for event in outcome[0] if isinstance(event, Content) and not event.last]


# --- what is expected ------------------------------------------------------------------------------------------------


def text(part: int, said: str) -> Content:
    return Content(part, "text", said)


def thought(part: int, said: str) -> Content:
    return Content(part, "reasoning", said)


def call(part: int, said: str, call_id: str | None = None, name: str | None = None) -> Content:
    return Content(part, "tool_call", said, call_id, name)


def last(part: int, kind: Any = "text", said: str = "", **state: Any) -> Content:
    """A part's last delta, with the state that its service wants back."""
    return Content(part, kind, said, last=True, opaque=orjson.dumps([MAKER, state]).decode() if state else None)


def citation(part: int, **fields: Any) -> Content:
    return Content(part, "data", orjson.dumps(fields).decode(), name="citation", last=True)


EXPECTED: Final[Mapping[str, Outcome]] = {
    "openai": (
        [text(0, "Grüß"), text(0, ' Gott 🌍\n"日本"'), UsageReport(19, 10, 16, 4), last(0), Finish("stop")],
        None,
    ),
    "openai_tools": (
        [
            call(0, "", "call_x1", "get_weather"),
            call(0, '{"city":'),
            call(0, '"Zürich"}'),
            call(1, "", "call_x2", "get_time"),
            call(1, "{}"),
            UsageReport(80, 34, 0, 0),
            last(0, "tool_call"),
            last(1, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "openai_refusal": (
        [
            Content(0, "refusal", "I can’t"),
            Content(0, "refusal", " help with that."),
            UsageReport(12, 8),
            last(0, "refusal"),
            Finish("stop"),
        ],
        None,
    ),
    "openai_error": ([text(0, "Once")], "upstream_failed"),
    "azure": (
        [text(0, "Bonjour"), text(0, " à tous"), UsageReport(9, 2), last(0), Finish("content_filter")],
        None,
    ),
    "azure_error": ([text(0, "Bon")], "upstream_rejected"),
    "vllm": (
        [
            thought(0, "Two and"),
            thought(0, " two…"),
            UsageReport(8, 4),
            text(1, "\n\nFour"),
            text(1, " 😀\ufffd."),
            UsageReport(8, 9),
            last(0, "reasoning"),
            last(1),
            Finish("length"),
        ],
        None,
    ),
    "vllm_error": ([text(0, "Two")], "upstream_failed"),
    "ollama_v1": (
        [
            text(0, "One"),
            text(0, " — "),
            call(1, '{"zone":"UTC"}', "call_k2", "get_time"),
            UsageReport(11, 5),
            last(0),
            last(1, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "ollama_v1_cut": ([text(0, "One")], "truncated"),
    "llama_cpp": ([text(0, "Hé"), UsageReport(5, 2), last(0), Finish("stop")], None),
    "llama_cpp_error": ([text(0, "Half")], "upstream_rejected"),
    "llama_cpp_error_line": ([text(0, "Half")], "upstream_failed"),
    "litellm": (
        [
            thought(0, "I should"),
            thought(0, " look."),
            text(1, "Let me see."),
            call(2, "", "toolu_1", "get_time"),
            call(2, '{"zone":"UTC"}'),
            UsageReport(60, 40, 0, 9),
            last(
                0,
                "reasoning",
                thinking_blocks=[{"type": "thinking", "thinking": 14, "signature": "EqoBCkgI-test=="}],
            ),
            last(1),
            last(2, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "litellm_error": ([text(0, "Let")], "upstream_busy"),
    "litellm_cut": ([text(0, "Let"), text(0, " me")], "truncated"),
    "openrouter": (
        [
            thought(0, "Hm"),
            thought(0, ", so."),
            text(1, "See "),
            text(1, "[1]."),
            citation(2, url="https://example.com/a", title="A page", start=4, end=7),
            UsageReport(20, 15, 0, 5),
            last(
                0,
                "reasoning",
                reasoning_details=[
                    {
                        "type": "reasoning.text",
                        "text": 7,
                        "format": "anthropic-claude-v1",
                        "index": 0,
                        "signature": "sig-test==",
                    }
                ],
            ),
            last(1),
            Finish("stop"),
        ],
        None,
    ),
    "openrouter_error": ([thought(0, "Hm"), text(1, "Well")], "upstream_failed"),
    "deepseek": (
        [
            thought(0, "A clock"),
            thought(0, " helps."),
            call(1, "", "call_00_d", "get_time"),
            call(1, "{}"),
            UsageReport(50, 21, 32, 7),
            last(0, "reasoning", reasoning=True),
            last(1, "tool_call", reasoning=True),
            Finish("tool_calls"),
        ],
        None,
    ),
    "deepseek_busy": ([text(0, "Da")], "upstream_busy"),
    "groq": (
        [
            thought(0, "Both."),
            call(1, "", "call_a", "get_time"),
            call(2, '{"city":', "call_b", "get_weather"),
            call(1, "{}"),
            call(2, '"Köln"}'),
            UsageReport(200, 30),
            last(0, "reasoning"),
            last(1, "tool_call"),
            last(2, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "groq_tool_use_failed": ([], "upstream_failed"),
    "groq_stopped": ([text(0, "Half")], "upstream_failed"),
    "mistral": (
        [
            thought(0, "Let me"),
            thought(0, " see"),
            thought(0, "."),
            text(1, "Oui"),
            text(1, ", voilà"),
            UsageReport(7, 6),
            last(0, "reasoning"),
            last(1),
            Finish("length"),
        ],
        None,
    ),
    "mistral_tools": (
        [
            call(0, '{"zone": "CET"}', "D681PevKs", "get_time"),
            UsageReport(90, 19),
            last(0, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "mistral_error": ([text(0, "Ou")], "upstream_failed"),
    "together": (
        [
            thought(0, "Think."),
            text(1, "Yes"),
            text(1, " indeed"),
            UsageReport(9, 6, 0),
            last(0, "reasoning"),
            last(1),
            Finish("stop"),
        ],
        None,
    ),
    "together_error": ([text(0, "Yes")], "upstream_failed"),
    "gemini": (
        [
            text(0, "Looking."),
            call(1, '{"zone":"CET"}', "function-call-1", "get_time"),
            call(2, '{"zone":"UTC"}', "call-1", "get_time"),
            UsageReport(40, 22),
            last(0),
            last(1, "tool_call", extra_content={"google": {"thought_signature": "CpMB-test=="}}),
            last(2, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "gemini_filtered": (
        [text(0, "In the begin"), UsageReport(14, 4), last(0), Finish("content_filter")],
        None,
    ),
    "gemini_malformed_call": ([text(0, "Looking.")], "upstream_failed"),
    "gemini_error": ([text(0, "Look")], "upstream_busy"),
    "anthropic": (
        [
            UsageReport(25, 1, 0),
            text(0, "Grüß"),
            text(0, " dich 🌍"),
            UsageReport(25, 12, 0),
            last(0),
            Finish("stop"),
        ],
        None,
    ),
    "anthropic_thinking_tools": (
        [
            UsageReport(2130, 3, 2000),
            thought(0, "The clock"),
            thought(0, " will tell."),
            last(0, "reasoning", signature="EqQB-test=="),
            text(1, "I look."),
            last(1, before=[{"type": "redacted_thinking", "data": "EmwK-test=="}]),
            call(2, "", "toolu_01A", "get_time"),
            call(2, '{"zone": "C'),
            call(2, 'ET"}'),
            last(2, "tool_call"),
            call(3, "", "toolu_01B", "get_date"),
            UsageReport(2130, 48, 2000, 20),
            UsageReport(2130, 51, 2000, 20),
            last(3, "tool_call", "{}"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "anthropic_refusal": (
        [
            UsageReport(25, 1, 0),
            text(0, "First"),
            last(0),
            Content(1, "refusal", "This request was declined."),
            UsageReport(25, 4, 0),
            last(1, "refusal"),
            Finish("content_filter"),
        ],
        None,
    ),
    "anthropic_pause_turn": (
        [
            UsageReport(25, 1, 0),
            text(0, "It says "),
            citation(1, url="https://example.com/a", title="A page", text="yes"),
            text(0, "yes"),
            text(0, "."),
            UsageReport(25, 30, 0),
            last(0),
            Finish("length"),
        ],
        None,
    ),
    "anthropic_overloaded": ([UsageReport(25, 1, 0), text(0, "Half")], "upstream_busy"),
    "anthropic_cut": ([UsageReport(25, 1, 0), thought(0, "Hm")], "truncated"),
    "responses": (
        [
            thought(0, "**Gree"),
            thought(0, "ting**"),
            thought(0, "\n\n"),
            thought(0, "In German."),
            last(0, "reasoning", id="rs_0", encrypted_content="gAAA-test==", summary=[12, 10]),
            text(1, "Grüß"),
            text(1, " dich 🌍"),
            last(1, phase="final_answer"),
            UsageReport(19, 30, 16, 20),
            Finish("stop"),
        ],
        None,
    ),
    "responses_tools": (
        [
            text(0, "I look."),
            last(0, before=[{"id": "rs_1", "encrypted_content": "gAAB-test=="}], phase="commentary"),
            call(1, "", "call_r1", "get_time"),
            call(2, "", "call_r2", "get_date"),
            call(1, '{"zone":'),
            call(2, "{}"),
            call(1, '"CET"}'),
            last(1, "tool_call"),
            last(2, "tool_call"),
            UsageReport(70, 44, 0, 12),
            Finish("tool_calls"),
        ],
        None,
    ),
    "responses_whole": (
        [
            UsageReport(19, 30, 0, 0),
            thought(0, "**Greeting**"),
            thought(0, "\n\n"),
            thought(0, "In German."),
            last(0, "reasoning", id="rs_0", encrypted_content="gAAA-test==", summary=[12, 10]),
            text(1, "Grüß dich 🌍"),
            last(1, phase="final_answer"),
            call(2, "", "call_r1", "get_time"),
            call(2, '{"zone":"CET"}'),
            last(2, "tool_call"),
            Finish("tool_calls"),
        ],
        None,
    ),
    "responses_refusal": (
        [
            Content(0, "refusal", "I can’t"),
            Content(0, "refusal", " help with that."),
            last(0, "refusal"),
            UsageReport(12, 8, 0, 0),
            Finish("stop"),
        ],
        None,
    ),
    "responses_incomplete": (
        [text(0, "A long"), text(0, " story"), UsageReport(9, 16, 0, 0), last(0), Finish("length")],
        None,
    ),
    "responses_filtered": (
        [text(0, "A long"), text(0, " story"), UsageReport(9, 16, 0, 0), last(0), Finish("content_filter")],
        None,
    ),
    "responses_failed": (
        [text(0, "A long"), text(0, " story"), UsageReport(9, 3, 0, 0)],
        "upstream_failed",
    ),
    "responses_error": ([], "upstream_busy"),
}

PROOFS: Final = (
    b'"finish_reason":"',
    b'"stop_reason":"',
    b'"type":"response.completed"',
    b'"type":"response.incomplete"',
)
"""What a whole frame must hold for an answer to be whole."""


def proved_at(stream: bytes) -> int:
    """How many bytes of a successful stream prove its end."""
    return min(stream.find(b"\n", at) for proof in PROOFS if (at := stream.find(proof)) >= 0)
