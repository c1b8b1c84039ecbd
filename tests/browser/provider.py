"""What the model says in the tests of the page: an answer for each question, held where a test wants it."""

import asyncio
from collections.abc import Iterable, Sequence

from tests.support.provider_server import Answer, Gate, Pause, Piece, Received, Reply, chunk, sse


class Script:
    """The provider's answers, by the question; `Reply`s of one question are played in turn, the last one ever after."""

    def __init__(self) -> None:
        self._answers: dict[str, list[Answer]] = {}

    def plays(self, question: str, *answers: Answer) -> None:
        self._answers[question] = list(answers)

    def says(self, question: str, *texts: str) -> None:
        self.plays(question, says(texts))

    def answer(self, request: Received) -> Answer:
        waiting = self._answers.get(question_of(request))
        if waiting is None:
            return says(["This ", "was ", "not ", "rehearsed."])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


def question_of(request: Received) -> str:
    return str(request.body["messages"][-1]["content"])


def says(texts: Sequence[str], *, held: asyncio.Event | None = None, every_ms: float = 0) -> Reply:
    """An answer whose deltas are `texts`; with `held` it ends when that is set, and not before."""
    return Reply([*deltas(texts, every_ms), *([] if held is None else [Gate(held)]), *end(len(texts))])


def deltas(texts: Iterable[str], every_ms: float = 0) -> list[Piece]:
    """Each text as an event of its own, `every_ms` apart."""
    pieces: list[Piece] = []
    for text in texts:
        pieces += [sse(chunk(text)), Pause(every_ms)]
    return pieces


def reasons(*texts: str) -> list[Piece]:
    return [sse(chunk(reasoning_content=text)) for text in texts]


def end(tokens: int) -> list[Piece]:
    usage = {"prompt_tokens": 12, "completion_tokens": tokens}
    return [sse(chunk(finish_reason="stop")), sse({"choices": [], "usage": usage}), sse("[DONE]")]


def words(count: int, name: str = "w") -> list[str]:
    """Words that are all different, so that one that is lost, doubled or out of place shows."""
    return [f"{name}{number} " for number in range(count)]
