"""A connection answers what it is told in order, each command once, and says nothing after it has closed."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.generated import properly, validated
from turnwire.core.connection import (
    EXPIRING_MS,
    FEATURES,
    REFUSALS_MAX,
    REFUSALS_PER_S,
    WAITING_COMMANDS_MAX,
    Authenticate,
    Close,
    Connection,
    Effect,
    Execute,
    Grant,
    Greeting,
    Send,
    error_frame,
    reply,
)
from turnwire.core.credentials import SCOPES, Scope
from turnwire_protocol import limits
from turnwire_protocol.codec import FrameRefused, validate_command
from turnwire_protocol.codes import CloseCode
from turnwire_protocol.commands import AnyCommand, AuthRefresh, TurnCreate
from turnwire_protocol.events import Frame
from turnwire_protocol.values import Left, Limits

NOW = 50_000
HELLO_MS = 5_000
ALLOWED = Limits(
    frame_bytes_max=1_048_576,
    input_bytes_max=480_000,
    frames_per_s=1_000,
    bytes_per_s=1_048_576,
    sessions_open_max=2,
    turns_running_max=2,
    history_turns_max=50,
)
GREETING = Greeting(["m", "m2"], ALLOWED, ping_ms=20_000, terminal_within_ms=15_000, hello_ms=HELLO_MS)


def command(kind: str, **fields: Any) -> Any:
    return validate_command({"type": kind, **fields})


def say(**fields: Any) -> TurnCreate:
    return command("turn.create", input=[{"type": "text", "text": "hi"}], **({"session": "s1", "turn": "t1"} | fields))


def connection_of(**allowed: int) -> Connection:
    greeting = Greeting(["m"], ALLOWED.model_copy(update=allowed), 20_000, 15_000, HELLO_MS)
    return Connection("c1", greeting, NOW)


def opened(**allowed: int) -> Connection:
    connection = connection_of(**allowed)
    connection.received(command("hello"), 10, NOW)
    connection.authenticated(Grant("ann"), NOW)
    assert connection.phase == "open"
    return connection


def receive(connection: Connection, *commands: AnyCommand, now_ms: int = NOW) -> list[Effect]:
    return [effect for one in commands for effect in connection.received(one, 100, now_ms)]


def sent(effects: Sequence[Effect]) -> list[Frame]:
    frames = [effect.frame for effect in effects if isinstance(effect, Send)]
    for frame in frames:
        validated(frame)
    return frames


def only_frame(effects: Sequence[Effect]) -> Frame:
    (frame,) = sent(effects)
    assert len(effects) == 1
    return frame


def code_and_close(effects: Sequence[Effect]) -> tuple[str, CloseCode]:
    """Of a refusal that ends the connection: an error frame, then the Close, and nothing else."""
    (frame,) = sent(effects)
    assert isinstance(effects[-1], Close) and len(effects) == 2
    return frame["error"]["code"], effects[-1].code


def silent(connection: Connection) -> bool:
    """Whether nothing gets a word out of it any more."""
    refresh = AuthRefresh(type="auth.refresh", token="x", id="late")
    said: list[Effect] = [
        *connection.received(command("ping", id="late"), 10, NOW + 60_000),
        *connection.received(command("hello", id="late"), 10, NOW + 60_000),
        *connection.received(say(id="late"), 10, NOW + 60_000),
        *connection.refused(FrameRefused("bad_frame", "late", reply_to="late"), 10, NOW + 60_000),
        *connection.refused(FrameRefused("bad_frame", "late", close=CloseCode.BAD_FRAME), 10, NOW + 60_000),
        *connection.tick(NOW + 60_000),
        *connection.authenticated(Grant("ann"), NOW),
        *connection.authenticated(None, NOW),
        *connection.refreshed(refresh, Grant("ann"), NOW),
        *connection.refreshed(refresh, Grant("bob"), NOW),
        *connection.refreshed(refresh, None, NOW),
        *connection.token_ended(),
        *connection.fail(CloseCode.INTERNAL, "internal", "late"),
    ]
    return said == [] and connection.phase == "closed" and connection.deadline_ms() is None


# --- hello ------------------------------------------------------------------------------------------------------------


def test_hello_is_authenticated_and_then_welcomed() -> None:
    connection = Connection("c1", GREETING, NOW)
    assert receive(connection, command("hello", id="h", token="secret")) == [Authenticate("secret")]
    assert connection.user == ""
    assert only_frame(connection.authenticated(Grant("ann"), NOW)) == {
        "type": "welcome",
        "reply_to": "h",
        "connection": "c1",
        "user": "ann",
        "features": list(FEATURES),
        "models": ["m", "m2"],
        "limits": ALLOWED.model_dump(exclude_none=True),
        "ping_ms": 20_000,
        "terminal_within_ms": 15_000,
    }
    assert (connection.phase, connection.user) == ("open", "ann")


def test_welcome_says_what_is_left_to_its_user() -> None:
    connection = connection_of()
    receive(connection, command("hello"))
    welcome = only_frame(connection.authenticated(Grant("ann"), NOW, Left(turns_per_minute=7, usd_per_day="0.5")))
    assert welcome["limits"]["left"] == {"turns_per_minute": 7, "usd_per_day": "0.5"}


def test_a_client_too_many_is_told_why_and_let_go() -> None:
    connection = connection_of()
    assert connection.crowded("too early", 1) == []
    receive(connection, command("hello", id="h"))
    sent, closed = connection.crowded("You have too many connections open.", 1_000)
    assert isinstance(sent, Send) and sent.frame["reply_to"] == "h"
    assert sent.frame["error"] == {
        "code": "rate_limited",
        "message": "You have too many connections open.",
        "retry": "same_frame",
        "retry_after_ms": 1_000,
    }
    assert closed == Close(CloseCode.RATE_LIMITED)
    assert receive(connection, command("ping")) == []


def test_a_client_is_told_which_of_the_features_it_named_are_there() -> None:
    connection = connection_of()
    receive(connection, command("hello", features=["queue", "telepathy", "resume"]))
    assert only_frame(connection.authenticated(Grant("ann"), NOW))["features"] == ["resume", "queue"]


def test_a_token_that_is_nobodys_closes_the_connection_and_nothing_that_waited_is_carried_out() -> None:
    connection = connection_of()
    receive(connection, command("hello", id="h", token="x"), say(id="1"))
    effects = connection.authenticated(None, NOW)
    assert code_and_close(effects) == ("unauthenticated", CloseCode.UNAUTHENTICATED)
    assert sent(effects)[0]["reply_to"] == "h"
    assert silent(connection)


@pytest.mark.parametrize(
    "first",
    [
        say(id="1"),
        command("session.open", id="1", session="s1"),
        command("session.close", id="1", session="s1"),
        command("turn.cancel", id="1", session="s1", turn="t1"),
        command("turn.respond", id="1", session="s1", turn="t1", request="r", value=1),
        command("auth.refresh", id="1", token="x"),
    ],
    ids=lambda first: first.type,
)
def test_whoever_begins_with_anything_but_hello_is_not_known(first: AnyCommand) -> None:
    connection = connection_of()
    effects = receive(connection, first)
    assert code_and_close(effects) == ("unauthenticated", CloseCode.UNAUTHENTICATED)
    assert sent(effects)[0]["reply_to"] == "1"
    assert silent(connection)


def test_a_ping_is_answered_at_any_time_even_before_hello() -> None:
    connection = connection_of()
    ping = command("ping", id="p")
    pong = {"type": "pong", "reply_to": "p"}
    assert only_frame(receive(connection, ping)) == pong
    receive(connection, command("hello"))
    assert only_frame(receive(connection, ping)) == pong
    connection.authenticated(Grant("ann"), NOW)
    assert only_frame(receive(connection, ping)) == pong
    assert only_frame(receive(connection, command("ping"))) == {"type": "pong"}


@pytest.mark.parametrize("welcomed", [True, False])
def test_a_second_hello_is_refused_and_the_first_one_stands(welcomed: bool) -> None:
    connection = connection_of()
    receive(connection, command("hello", id="h1", token="first"))
    if welcomed:
        connection.authenticated(Grant("ann"), NOW)
    refusal = only_frame(receive(connection, command("hello", id="h2", token="second")))
    assert (refusal["reply_to"], refusal["error"]["code"]) == ("h2", "bad_frame")
    if not welcomed:
        assert only_frame(connection.authenticated(Grant("ann"), NOW))["reply_to"] == "h1"
    assert (connection.phase, connection.user) == ("open", "ann")


def test_an_answer_about_a_token_that_nobody_asked_for_changes_nothing() -> None:
    connection = connection_of()
    assert connection.authenticated(Grant("ann"), NOW) == []
    assert (connection.phase, connection.user) == ("greeting", "")
    connection = opened()
    assert connection.authenticated(Grant("bob"), NOW) == []
    assert connection.authenticated(None, NOW) == []
    assert (connection.phase, connection.user) == ("open", "ann")


# --- what is sent together with hello ---------------------------------------------------------------------------------


def test_commands_that_came_with_hello_are_carried_out_after_welcome_in_their_order() -> None:
    connection = connection_of()
    commands = [
        command("session.open", id="1", session="s1"),
        say(id="2"),
        command("turn.cancel", id="3", session="s1", turn="t1"),
        command("turn.respond", id="4", session="s1", turn="t1", request="r", value={"a": 1}),
        command("auth.refresh", id="5", token="x"),
        command("session.close", id="6", session="s1"),
    ]
    assert receive(connection, command("hello"), *commands) == [Authenticate(None)]
    welcome, *rest = connection.authenticated(Grant("ann"), NOW)
    assert isinstance(welcome, Send) and welcome.frame["type"] == "welcome"
    assert rest == [Execute(one) for one in commands]
    assert connection.authenticated(Grant("ann"), NOW) == []


def test_too_many_commands_before_welcome_close_the_connection() -> None:
    connection = connection_of()
    receive(connection, command("hello"))
    for number in range(WAITING_COMMANDS_MAX):
        assert receive(connection, command("session.open", session="s1", id=f"c{number}")) == []
    effects = receive(connection, command("session.open", session="s1", id="last"))
    assert code_and_close(effects) == ("rate_limited", CloseCode.RATE_LIMITED)
    assert sent(effects)[0]["reply_to"] == "last"
    assert silent(connection)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_client_that_says_no_hello_in_time_is_closed() -> None:
    connection = connection_of()
    assert connection.deadline_ms() == NOW + HELLO_MS
    assert connection.tick(NOW + HELLO_MS - 1) == []
    effects = connection.tick(NOW + HELLO_MS)
    assert code_and_close(effects) == ("unauthenticated", CloseCode.HELLO_TIMEOUT)
    assert sent(effects)[0]["error"]["message"] == "no hello came within 5 s"
    assert silent(connection)


def test_pings_and_nonsense_do_not_put_the_deadline_off() -> None:
    connection = connection_of()
    receive(connection, command("ping"), now_ms=NOW + 4_000)
    connection.refused(FrameRefused("bad_frame", "what?"), 10, NOW + 4_500)
    assert connection.deadline_ms() == NOW + HELLO_MS


def test_after_hello_there_is_no_deadline() -> None:
    connection = connection_of()
    receive(connection, command("hello"))
    assert connection.deadline_ms() is None
    assert connection.tick(NOW + 3_600_000) == []
    connection.authenticated(Grant("ann"), NOW)
    assert connection.deadline_ms() is None
    assert connection.tick(NOW + 3_600_000) == []


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hello", "ping"])
def test_what_is_answered_on_arrival_is_never_left_to_be_carried_out(kind: str) -> None:
    with pytest.raises(TypeError, match=kind):
        opened()._command(command(kind))


def test_a_token_is_refreshed_for_the_same_user() -> None:
    connection = opened()
    refresh = command("auth.refresh", id="r", token="new")
    assert receive(connection, refresh) == [Execute(refresh)]
    answer = {"type": "ack", "reply_to": "r", "expires_at": 1_700_000_000_000}
    assert (
        only_frame(connection.refreshed(refresh, Grant("ann", ends_ms=NOW + 9, expires_at=1_700_000_000_000), NOW))
        == answer
    )
    assert only_frame(connection.refreshed(refresh, Grant("ann"), NOW)) == {"type": "ack", "reply_to": "r"}


def test_a_refresh_with_a_bad_token_is_refused_and_the_connection_goes_on() -> None:
    connection = opened()
    refusal = only_frame(connection.refreshed(command("auth.refresh", id="r", token="x"), None, NOW))
    assert (refusal["reply_to"], refusal["error"]["code"]) == ("r", "unauthenticated")
    assert (connection.phase, connection.user) == ("open", "ann")


def test_a_refresh_with_another_users_token_closes_the_connection() -> None:
    connection = opened()
    effects = connection.refreshed(command("auth.refresh", id="r", token="x"), Grant("bob"), NOW)
    assert code_and_close(effects) == ("forbidden", CloseCode.FORBIDDEN)
    assert sent(effects)[0]["reply_to"] == "r"
    assert silent(connection)


# --- tokens that end, and what they allow -----------------------------------------------------------------------------


def granted(**more: Any) -> Connection:
    connection = connection_of()
    receive(connection, command("hello"))
    connection.authenticated(Grant("ann", **more), NOW)
    return connection


def test_a_token_that_ends_is_announced_and_then_closes_with_4501() -> None:
    connection = granted(ends_ms=NOW + 600_000, expires_at=1_700_000_000_000)
    assert connection.deadline_ms() == NOW + 600_000 - EXPIRING_MS
    assert connection.tick(NOW + 600_000 - EXPIRING_MS - 1) == []
    announced = connection.tick(NOW + 600_000 - EXPIRING_MS)
    assert only_frame(announced) == {"type": "auth.expiring", "expires_at": 1_700_000_000_000}
    assert connection.tick(NOW + 600_000 - 1) == []
    assert connection.deadline_ms() == NOW + 600_000
    assert code_and_close(connection.tick(NOW + 600_000)) == ("token_expired", CloseCode.TOKEN_EXPIRED)
    assert silent(connection)


@pytest.mark.parametrize("left_ms", [-5, 0, 1, 2, 10_000, 119_999, 120_000, 10**9])
def test_there_is_time_between_the_announcement_and_the_end(left_ms: int) -> None:
    connection = granted(ends_ms=NOW + left_ms, expires_at=1)
    due_ms = connection.deadline_ms()
    assert due_ms is not None and due_ms <= NOW + left_ms
    assert NOW + left_ms - due_ms <= EXPIRING_MS
    assert left_ms < 2 or due_ms < NOW + left_ms


def test_a_token_that_does_not_end_is_waited_for_by_nobody() -> None:
    connection = granted()
    assert connection.deadline_ms() is None
    assert connection.tick(NOW + 10**12) == []


def test_a_refreshed_token_puts_off_the_end_and_is_announced_anew() -> None:
    connection = granted(ends_ms=NOW + 100, expires_at=1)
    connection.tick(NOW + 60)
    refresh = command("auth.refresh", token="x")
    connection.refreshed(refresh, Grant("ann", ends_ms=NOW + 400, expires_at=2), NOW + 100)
    assert connection.tick(NOW + 100) == []
    assert only_frame(connection.tick(NOW + 300))["expires_at"] == 2
    connection.refreshed(refresh, Grant("ann"), NOW + 301)
    assert connection.deadline_ms() is None and connection.tick(NOW + 10**9) == []


def test_a_revoked_token_closes_as_an_ended_one_does() -> None:
    connection = granted()
    assert code_and_close(connection.token_ended()) == ("token_expired", CloseCode.TOKEN_EXPIRED)
    assert connection.token_ended() == []


SCOPED = [
    (command("session.open", session="s1"), {"read"}),
    (say(), {"read", "write"}),
    (command("turn.cancel", session="s1", turn="t1"), {"write"}),
    (command("turn.respond", session="s1", turn="t1", request="r", value=1), {"write"}),
    (command("session.close", session="s1"), set()),
    (command("auth.refresh", token="x"), set()),
]


@pytest.mark.parametrize(("one", "needed"), SCOPED, ids=lambda value: getattr(value, "type", ""))
def test_each_command_needs_its_scopes_and_no_other_ones(one: AnyCommand, needed: set[str]) -> None:
    every: frozenset[Scope] = frozenset(SCOPES)
    for scopes in ({*some} for size in range(4) for some in combinations(every, size)):
        connection = granted(scopes=frozenset(scopes))
        refusal = connection.refusal_of(one)
        assert (refusal is None) == (needed <= scopes)
        if refusal is not None:
            validated(refusal)
            assert refusal["error"]["code"] == "forbidden"


def test_a_refreshed_token_may_allow_less() -> None:
    connection = granted()
    assert connection.refusal_of(say()) is None
    connection.refreshed(command("auth.refresh", token="x"), Grant("ann", frozenset(["read"])), NOW)
    refusal = connection.refusal_of(say())
    assert refusal is not None and refusal["error"]["code"] == "forbidden"


def test_a_failure_is_said_before_the_connection_closes_and_only_once() -> None:
    connection = opened()
    effects = connection.fail(CloseCode.INTERNAL, "internal", "Something went wrong.", say(id="1"))
    assert code_and_close(effects) == ("internal", CloseCode.INTERNAL)
    # Whether the command was carried out is not known, so the same one is to be sent again, elsewhere.
    assert isinstance(effects[0], Send) and effects[0].frame["error"]["retry"] == "reconnect"
    assert sent(effects)[0] | {"error": None} == {
        "type": "error",
        "reply_to": "1",
        "session": "s1",
        "turn": "t1",
        "error": None,
    }
    assert silent(connection)


# --- frames that are no commands --------------------------------------------------------------------------------------


def test_a_frame_that_is_no_valid_command_is_answered_by_its_id_and_the_connection_goes_on() -> None:
    for connection in (connection_of(), opened()):
        before = connection.phase
        frame = only_frame(connection.refused(FrameRefused("unsupported", "no such command", reply_to="x"), 10, NOW))
        assert (frame["reply_to"], frame["error"]["code"]) == ("x", "unsupported")
        assert "reply_to" not in only_frame(connection.refused(FrameRefused("bad_frame", "no id"), 10, NOW))
        assert connection.phase == before


@pytest.mark.parametrize("make", [connection_of, opened])
def test_a_message_that_is_no_frame_closes_the_connection_with_its_code(make: Callable[[], Connection]) -> None:
    connection = make()
    effects = connection.refused(FrameRefused("too_large", "too many bytes", close=CloseCode.TOO_LARGE), 10, NOW)
    assert code_and_close(effects) == ("too_large", CloseCode.TOO_LARGE)
    assert silent(connection)


def test_what_closes_the_connection_is_said_even_to_a_client_that_sends_too_much() -> None:
    connection = opened(frames_per_s=1)
    while receive(connection, command("ping"))[0] == Send({"type": "pong"}):
        pass
    effects = connection.refused(FrameRefused("bad_frame", "not JSON", close=CloseCode.BAD_FRAME), 10, NOW)
    assert code_and_close(effects) == ("bad_frame", CloseCode.BAD_FRAME)


# --- limits -----------------------------------------------------------------------------------------------------------


def drained(connection: Connection) -> Connection:
    """Without a frame left for now."""
    while "error" not in only_frame(receive(connection, command("ping"))):
        pass
    return connection


def test_a_client_may_send_two_seconds_worth_of_frames_at_once_and_is_then_told_when_to_go_on() -> None:
    connection = connection_of(frames_per_s=5)
    answers = [only_frame(receive(connection, command("ping", id=f"p{number}"))) for number in range(11)]
    assert [frame["type"] for frame in answers] == ["pong"] * 10 + ["error"]
    error = answers[-1]["error"]
    assert (error["code"], error["retry"], error["retry_after_ms"]) == ("rate_limited", "same_frame", 200)
    assert answers[-1]["reply_to"] == "p10"
    assert only_frame(receive(connection, command("ping"), now_ms=NOW + 199))["type"] == "error"
    assert only_frame(receive(connection, command("ping"), now_ms=NOW + 200))["type"] == "pong"


def test_what_is_refused_for_its_rate_is_not_carried_out_and_names_its_session_and_turn() -> None:
    connection = drained(opened(frames_per_s=1))
    frame = only_frame(receive(connection, say(id="1")))
    assert (frame["reply_to"], frame["session"], frame["turn"]) == ("1", "s1", "t1")


def test_bytes_are_counted_too_and_the_largest_command_always_gets_through() -> None:
    connection, rested = opened(bytes_per_s=1_000), NOW + 1_000
    assert connection.received(say(), limits.COMMAND_BYTES_MAX, rested) == [Execute(say())]
    error = only_frame(connection.received(say(id="1"), 2_000, rested))["error"]
    assert (error["code"], error["retry_after_ms"]) == ("rate_limited", 2_000)
    assert connection.received(say(), 2_000, rested + 2_000) == [Execute(say())]


def test_a_server_that_allows_many_bytes_takes_two_seconds_worth_at_once() -> None:
    connection, rested = opened(bytes_per_s=3_000_000), NOW + 1_000
    for _ in range(6):
        assert connection.received(say(), 1_000_000, rested) == [Execute(say())]
    assert only_frame(connection.received(say(), 3_000, rested))["error"]["retry_after_ms"] == 1


def test_frames_that_are_no_commands_count_like_those_that_are() -> None:
    connection = opened(frames_per_s=1)
    bad = FrameRefused("bad_frame", "what?", reply_to="b")
    answers = [only_frame(connection.refused(bad, 10, NOW))["error"]["code"] for _ in range(3)]
    assert answers == ["bad_frame", "rate_limited", "rate_limited"]  # hello was the first of two
    assert only_frame(connection.refused(bad, 10, NOW))["reply_to"] == "b"
    assert only_frame(receive(connection, command("ping")))["error"]["code"] == "rate_limited"


@pytest.mark.parametrize("malformed", [True, False])
def test_a_client_that_goes_on_through_refusals_is_closed(malformed: bool) -> None:
    def refusal() -> list[Effect]:
        if malformed:
            return connection.refused(FrameRefused("bad_frame", "what?"), 10, NOW)
        return receive(connection, command("ping"))

    connection = drained(opened(frames_per_s=1))
    for _ in range(REFUSALS_MAX - 1):
        assert only_frame(refusal())["error"]["code"] == "rate_limited"
    assert code_and_close(refusal()) == ("rate_limited", CloseCode.RATE_LIMITED)
    assert silent(connection)


def test_a_client_whose_refusals_are_few_a_second_is_not_closed() -> None:
    connection = drained(opened(frames_per_s=1))
    for number in range(REFUSALS_MAX * 2):
        effects = receive(connection, command("ping"), now_ms=NOW + number * 1_000 // REFUSALS_PER_S)
        assert only_frame(effects)["type"] in ("pong", "error")


def test_a_connection_has_so_many_sessions_open_and_no_more() -> None:
    connection = opened(sessions_open_max=2)
    connection.session_opened("s1")
    connection.session_opened("s2")
    for more in (command("session.open", id="1", session="s3"), say(id="1", session="s3")):
        frame = connection.refusal_of(more)
        assert frame is not None
        assert (frame["reply_to"], frame["session"], frame["error"]["code"]) == ("1", "s3", "rate_limited")
    for again in (command("session.open", session="s1"), say(session="s2"), command("session.close", session="s3")):
        assert connection.refusal_of(again) is None
    connection.session_left("s1")
    assert connection.refusal_of(command("session.open", session="s3")) is None


def test_a_connection_has_so_many_turns_running_and_no_more() -> None:
    connection = opened(turns_running_max=2)
    connection.turn_taken_up("s1", "t1")
    connection.turn_taken_up("s2", "t1")
    frame = connection.refusal_of(say(id="1", session="s1", turn="t3"))
    assert frame is not None
    assert (frame["reply_to"], frame["turn"], frame["error"]["code"]) == ("1", "t3", "rate_limited")
    for other in (command("session.open", session="s1"), command("turn.cancel", session="s1", turn="t1")):
        assert connection.refusal_of(other) is None
    connection.turn_ended("s1", "t1")
    connection.turn_ended("s1", "t1")
    connection.turn_ended("s1", "never-taken-up")
    assert connection.refusal_of(say(turn="t3")) is None


def test_the_turns_of_a_session_that_was_deleted_count_no_more_and_it_stays_open() -> None:
    connection = opened(turns_running_max=1, sessions_open_max=1)
    connection.session_opened("s1")
    connection.turn_taken_up("s1", "t1")
    connection.session_emptied("s1")
    assert connection.refusal_of(say(session="s1", turn="t2")) is None
    assert connection.refusal_of(command("session.open", session="s2")) is not None


def test_the_turns_of_a_session_that_was_left_count_no_more_because_their_ends_are_not_seen() -> None:
    connection = opened(turns_running_max=3)
    for session, turn in (("s1", "t1"), ("s1", "t2"), ("s2", "t1")):
        connection.turn_taken_up(session, turn)
    connection.session_left("s1")
    for turn in ("t3", "t4"):
        assert connection.refusal_of(say(turn=turn)) is None
        connection.turn_taken_up("s1", turn)
    assert connection.refusal_of(say(turn="t5")) is not None


def test_malformed_frames_count_against_the_bytes_too() -> None:
    connection = drained(opened(frames_per_s=1_000, bytes_per_s=1_024))
    bad = FrameRefused("bad_frame", "what?")
    answers = [only_frame(connection.refused(bad, 1_048_576, NOW))["error"]["code"] for _ in range(2)]
    assert answers[-1] == "rate_limited"


# --- frames -----------------------------------------------------------------------------------------------------------


def test_an_answer_leaves_out_what_is_not_known() -> None:
    assert reply("ack", say(id="1"), session="s1", seq=None, duplicate=False) == {
        "type": "ack",
        "reply_to": "1",
        "session": "s1",
        "duplicate": False,
    }
    assert reply("ack", say()) == {"type": "ack"}


def test_an_error_names_the_command_that_it_answers() -> None:
    for frame in (
        error_frame("busy", "Wait.", command=say(id="1"), reply_to="ignored", retry_after_ms=5),
        error_frame("busy", "Wait.", reply_to="1", retry_after_ms=5),
    ):
        validated(frame)
        assert frame["reply_to"] == "1"
        assert frame["error"] == {"code": "busy", "message": "Wait.", "retry": "same_frame", "retry_after_ms": 5}
    assert error_frame("internal", "Oops.") == {
        "type": "error",
        "error": {"code": "internal", "message": "Oops.", "retry": "new_turn"},
    }
    assert "reply_to" not in error_frame("busy", "Wait.", command=say(), reply_to="not-its-id")


# --- any sequence of inputs -------------------------------------------------------------------------------------------

Step = tuple[str, int]
INPUTS = (
    "hello",
    "ping",
    "session.open",
    "session.close",
    "turn.create",
    "turn.cancel",
    "turn.respond",
    "auth.refresh",
    "malformed",
    "no frame",
    "tick",
    "known",
    "unknown",
    "terminal",
)
common = ("session.open", "turn.create", "ping", "session.close", "known", "terminal")
inputs = st.tuples(st.sampled_from([*INPUTS, *common, *common]), st.integers(0, 4))
FIELDS: dict[str, dict[str, Any]] = {
    "turn.create": {"input": [{"type": "text", "text": "hi"}]},
    "turn.respond": {"request": "r", "value": None},
    "auth.refresh": {"token": "x"},
}


class Played:
    """A connection that was told all inputs, and what it made of them. Sessions and turns are taken up at once."""

    def __init__(self, steps: Sequence[Step], pause_ms: int) -> None:
        self.connection = connection_of(frames_per_s=3, sessions_open_max=2, turns_running_max=2)
        self.now_ms = NOW
        self.effects: list[Effect] = []
        self.given: list[str] = []
        """Ids of all commands, valid and not, that came before the end."""
        self.answered_by_now: list[Effect] = []
        for number, (name, choice) in enumerate(steps):
            self.now_ms += choice * pause_ms
            effects = self.step(name, f"id{number}", choice)
            self.effects += effects
            for effect in effects:
                if isinstance(effect, Execute):
                    self.carry_out(effect.command)

    def step(self, name: str, id: str, choice: int) -> list[Effect]:
        connection = self.connection
        if name == "tick":
            return connection.tick(self.now_ms)
        if name in ("known", "unknown"):
            return connection.authenticated(Grant("ann") if name == "known" else None, self.now_ms)
        if name == "terminal":
            connection.turn_ended(f"s{choice}", f"t{choice}")
            return []
        if connection.phase != "closed":
            self.given.append(id)
        if name == "malformed":
            return connection.refused(FrameRefused("bad_frame", "what?", reply_to=id), 10, self.now_ms)
        if name == "no frame":
            return connection.refused(FrameRefused("bad_frame", "?", close=CloseCode.BAD_FRAME), 10, self.now_ms)
        value: dict[str, Any] = {"type": name, "id": id, "session": f"s{choice}", "turn": f"t{choice}"}
        return connection.received(validate_command(value | FIELDS.get(name, {})), 100, self.now_ms)

    def carry_out(self, one: Any) -> None:
        """The store says yes to everything. What a refresh answers is kept apart: it is the Execute's answer."""
        if self.connection.refusal_of(one) is not None:
            return
        if one.type == "session.close":
            self.connection.session_left(one.session)
        if one.type in ("session.open", "turn.create"):
            self.connection.session_opened(one.session)
        if one.type == "turn.create":
            self.connection.turn_taken_up(one.session, one.turn)
        if one.type == "auth.refresh":
            self.answered_by_now += self.connection.refreshed(one, Grant("ann"), NOW)

    def answers(self, id: str) -> int:
        sends = [effect.frame.get("reply_to") for effect in self.effects if isinstance(effect, Send)]
        executes = [effect.command.id for effect in self.effects if isinstance(effect, Execute)]
        return sends.count(id) + executes.count(id)


@properly
@given(st.lists(inputs, max_size=25).map(lambda rest: [("hello", 0), *rest]), st.sampled_from([0, 100, 1_000]))
@example(
    [("hello", 0), ("session.open", 1), ("ping", 1), ("known", 0), ("session.open", 2), ("session.open", 3)], 1_000
)
@example([("hello", 0), ("session.open", 1), ("unknown", 0), ("ping", 1)], 0)
def test_whatever_is_told_each_command_is_answered_once_and_nothing_comes_after_a_close(
    steps: list[Step], pause_ms: int
) -> None:
    played = Played(steps, pause_ms)
    sent(played.effects)
    sent(played.answered_by_now)
    closes = [isinstance(effect, Close) for effect in played.effects]
    assert closes.count(True) <= 1
    assert True not in closes[:-1], "nothing follows a Close"
    assert (played.connection.phase == "closed") is (True in closes)
    for id in played.given:
        assert played.answers(id) <= 1
        if played.connection.phase == "open":
            assert played.answers(id) == 1
    executed = [effect.command.id for effect in played.effects if isinstance(effect, Execute)]
    assert executed == [id for id in played.given if id in executed], "commands keep their order"
    kinds = [
        "welcome" if isinstance(effect, Send) and effect.frame["type"] == "welcome" else type(effect)
        for effect in played.effects
    ]
    if Execute in kinds:
        assert "welcome" in kinds[: kinds.index(Execute)], "nothing is carried out for a stranger"


@properly
@given(st.lists(inputs, max_size=25), st.sampled_from([0, 100, 2_000]))
def test_without_hello_nothing_is_carried_out(steps: list[Step], pause_ms: int) -> None:
    played = Played([step for step in steps if step[0] != "hello"], pause_ms)
    assert all(isinstance(effect, Send | Close) for effect in played.effects)
    assert played.connection.phase in ("greeting", "closed")


@properly
@given(st.lists(inputs, max_size=40))
def test_there_are_never_more_sessions_and_turns_than_allowed(steps: list[Step]) -> None:
    played = Played([("hello", 0), ("known", 0), *steps], 1_000)
    assert len(played.connection._sessions) <= 2
    assert len(played.connection._turns) <= 2
