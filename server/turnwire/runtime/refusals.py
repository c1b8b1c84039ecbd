"""How the backend says no, and that it does not know."""

from turnwire_protocol.codes import ErrorCode


class Refused(Exception):
    """A command that was not carried out and left no trace."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry_after_ms: int | None = None,
        upgrade_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.upgrade_url = upgrade_url


class TurnMissing(Refused):
    """The command names a turn that does not exist."""

    def __init__(self, turn: str, message: str) -> None:
        super().__init__("not_found", message)
        self.turn = turn


class Unlearned(Exception):
    """Whether the store took the write is not known. The same command again finds out."""
