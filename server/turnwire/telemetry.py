"""Logs: how they look, and what may stand in them.

A log line is an event, a constant in snake_case, and fields from the list below. The list is the rule that prompts,
answers and tokens never reach a log: a field that is not on it is withheld, whoever wrote it, and so is every text that
was made elsewhere. An exception is told as its type and the places it passed, without its message, because a message
may quote what a person wrote; of a library's own log line remain the library and the line of code that speaks.

Lines go to standard error, as JSON where a program reads them and coloured where a person does.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from turnwire.ports import Failure

FIELDS: Final = frozenset(
    [
        # Who and what: ids that the server drew or whose shape it checked.
        *("connection", "session", "turn", "node", "task", "model"),
        # A recorded exchange's name, which is a hash of its request: only where somebody records or plays them.
        "exchange",
        # How many, how long, how large; a name's last word is its unit.
        *("sessions", "turns", "connections", "failures", "attempt", "step", "seq"),
        *("waited_ms", "duration_ms", "delay_ms", "first_token_ms", "input_bytes", "output_bytes"),
        *("input_tokens", "output_tokens", "prompt_hash"),
        # Why: words of this code base, and details that ports.Failure promises to be free of content.
        *("kind", "why", "takes", "becomes", "detail", "code", "close", "result", "setting"),
        # Of whom, as the beginning of a hash: whoever knows an id can find its lines.
        "who",
        # Where: of this machine, not of a person.
        *("directory", "pid", "port"),
        # A library's line.
        *("library", "place", "text"),
    ]
)
"""Every field that a log line may have."""

TEXT_CHARS_MAX: Final = 200
FRAMES_MAX: Final = 30
CAUSES_MAX: Final = 6

_OWN: Final = frozenset(["event", "level", "timestamp", "exception"])


def get_log(name: str) -> Any:
    """A logger: `log.info("turn_left", turn=turn, why=why)`. `name` is the module's, for readers of the code."""
    return structlog.get_logger(name)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Set up logging for the process, to standard error unless another stream is given.

    `level` is debug, info, warning or error; libraries are heard from warning on.
    """
    output = stream or sys.stderr
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=True) if output.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            tell_exception,
            withhold_unknown,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [LibraryLines()]
    root.setLevel(logging.WARNING)
    # Its lines hold the address with the query, where clients of other servers put their tokens.
    logging.getLogger("uvicorn.access").disabled = True


class LibraryLines(logging.Handler):
    """Lines that libraries write with the standard library's logging, cut down to what is safe."""

    def emit(self, record: logging.LogRecord) -> None:
        library = record.name.partition(".")[0]
        fields: dict[str, Any] = {"library": library, "place": f"{record.module}:{record.lineno}"}
        if library == "uvicorn":  # whose templates are constants; the values in them stay out
            fields["text"] = record.msg
        structlog.get_logger().log(record.levelno, "library_line", exc_info=record.exc_info, **fields)


def withhold_unknown(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: fields outside FIELDS are dropped and named in `withheld`, texts are short and printable."""
    withheld = sorted(name for name in event if name not in FIELDS and name not in _OWN)
    for name in withheld:
        del event[name]
    for name in FIELDS & event.keys():
        value = event[name]
        if value is not None and not isinstance(value, bool | int | float):
            event[name] = _printable(str(value))
    if withheld:
        event["withheld"] = ",".join(_printable(name) for name in withheld)
    return event


def tell_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: `exc_info` becomes `exception`, the types and places of an error and its causes."""
    info: object = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = cast("tuple[object, ...]", info)[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_lines_of(error))
    return event


def _lines_of(error: BaseException) -> Iterator[str]:
    told = 0
    cause: BaseException | None = error
    while cause is not None and told < CAUSES_MAX:
        yield ("caused by " if told else "") + _named(cause)
        places = traceback.extract_tb(cause.__traceback__)
        for place in places[-FRAMES_MAX:]:
            yield f"  {place.filename}:{place.lineno} {place.name}"
        told += 1
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _named(error: BaseException) -> str:
    """The type, and what is known to be harmless about the instance."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, Failure):
        return f"{name}: {_printable(str(error))}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {_printable(error.strerror)}"
    if isinstance(error, BaseExceptionGroup):
        inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
        inner = ", ".join(_named(one) for one in inside[:CAUSES_MAX])
        return f"{name} of {inner}"
    return name


def _printable(text: str) -> str:
    """Short, and without the characters that move a cursor, break a line or turn its direction."""
    shown = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode("ascii")
