"""One connection as its verifier sees it: what passes, and which rule each fault breaks."""

from typing import Any

import pytest

from tests.protocol.conversations import (
    Json,
    Log,
    Step,
    ack,
    client,
    created,
    creates,
    greeted,
    hello,
    opens,
    play,
    reading,
    refusal,
    server,
    unopened,
    welcome,
)
from turnwire_protocol.codec import MSGPACK
from turnwire_protocol.grammar import History, RuleBroken, Verifier
from turnwire_protocol.limits import COMMAND_BYTES_MAX


def one_turn(turn: str = "t") -> Log:
    log = Log()
    log.answer(turn, "Ray", "leigh")
    return log


LOG = one_turn()
OPENED_EMPTY = client(opens()) + server(unopened(reply_to="o"))
GIVEN_A_GEN = server({**LOG.opened(0, "snapshot")})
CREATED = client(creates("t")) + GIVEN_A_GEN + server(*LOG.frames, created("t", 1))
WHOLE = greeted() + OPENED_EMPTY + CREATED


def without_ids(steps: list[Step]) -> list[Step]:
    return [(who, {key: value for key, value in what.items() if key not in ("id", "reply_to")}) for who, what in steps]


def raw(message: str) -> list[Step]:
    return [("raw", message)]


def closed(code: int) -> list[Step]:
    return [("closed", code)]


AT_REST: list[Step] = [("finish", None)]
LARGE = " " * (COMMAND_BYTES_MAX + 1)


def another(command: Json, **more: Any) -> Json:
    return {**command, "id": command["id"] + "2", **more}


PING = {"type": "ping", "id": "p"}
CLOSE = {"type": "session.close", "id": "k", "session": "s"}
CANCEL = {"type": "turn.cancel", "id": "x", "session": "s", "turn": "t"}
RESPOND = {"type": "turn.respond", "id": "r", "session": "s", "turn": "t", "request": "r1", "value": {"ok": True}}

LEGAL: dict[str, list[Step]] = {
    "nothing": [],
    "a turn from hello to done": WHOLE,
    "a turn without ids": without_ids(WHOLE),
    "sent together": client(hello(), opens(), creates("t"))
    + server(welcome(), unopened(reply_to="o"))
    + GIVEN_A_GEN
    + server(created("t", 1), *LOG.frames),
    "a create that opens": greeted() + client(creates("t")) + server(LOG.opened(0), *LOG.frames, created("t", 1)),
    "a create that opens, without ids": without_ids(
        greeted() + client(creates("t")) + server(LOG.opened(0), *LOG.frames, created("t", 1))
    ),
    "a create that opens, by a snapshot": greeted()
    + client(creates("t"))
    + server(*LOG.snapshot(), created("t", 1, duplicate=True)),
    "a create that opens, then an open": greeted()
    + client(creates("t"), opens())
    + server(LOG.opened(0), created("t", 1), *LOG.frames, *LOG.snapshot(reply_to="o")),
    "opened twice without ids": greeted() + without_ids(client(opens(), opens()) + server(unopened(), unopened())),
    "ping before hello": client({"type": "ping"}, hello()) + server({"type": "pong"}, welcome()),
    "hello refused for its rate, then greeted": client(hello())
    + server(refusal("rate_limited", reply_to="h"))
    + client(hello())
    + server(welcome()),
    "a second hello": greeted() + client(hello(id="h2")) + server(refusal("bad_frame", reply_to="h2")),
    "goaway and a token's end": greeted()
    + server(
        {"type": "auth.expiring", "expires_at": 1},
        {"type": "goaway", "reason": "deploy", "reconnect_min_ms": 0, "reconnect_max_ms": 1},
    )
    + closed(1012),
    "goaway before welcome": server({"type": "goaway", "reason": "d", "reconnect_min_ms": 0, "reconnect_max_ms": 1}),
    "fresh tokens": greeted()
    + client({"type": "auth.refresh", "id": "a", "token": "x"}, {"type": "auth.refresh", "token": "x"})
    + server(ack("a", expires_at=5), {"type": "ack"}),
    "closed and left alone": WHOLE
    + client({"type": "session.close", "id": "k", "session": "s"})
    + server(ack("k", session="s")),
    "closed, never opened": greeted()
    + client({"type": "session.close", "id": "k", "session": "x"})
    + server(ack("k", session="x")),
    "an error to an open leaves the cursor": greeted()
    + OPENED_EMPTY
    + client(opens(id="o2"))
    + server(refusal("rate_limited", reply_to="o2", session="s"))
    + CREATED,
    "a duplicate": WHOLE + client(another(creates("t"))) + server(created("t", 1, reply_to="c-t2", duplicate=True)),
    "a conflict": WHOLE
    + client(another(creates("t"), model="m2"))
    + server(refusal("turn_conflict", reply_to="c-t2", session="s", turn="t")),
    "a conflict about a turn of which nothing is known": greeted()
    + client(creates("t"))
    + server(refusal("turn_conflict", reply_to="c-t", session="s", turn="t")),
    "cancels": WHOLE
    + client({"type": "turn.cancel", "id": "x1", "session": "s", "turn": "t"})
    + client({"type": "turn.cancel", "id": "x2", "session": "s", "turn": "u"})
    + client({"type": "turn.cancel", "id": "x3", "session": "never", "turn": "u"})
    + server(ack("x1", session="s", turn="t", result="already_done"))
    + server(ack("x2", session="s", turn="u", result="pending"))
    + server(ack("x3", session="never", turn="u", result="cancelling")),
    "a cancel that ends its turn": reading(LOG, LOG.frames[:2])
    + client(CANCEL)
    + server(ack("x", session="s", turn="t", result="cancelling"), *LOG.frames[2:]),
    "answers in another order": greeted()
    + client({"type": "ping", "id": "p"}, opens(), {"type": "ping"})
    + server({"type": "pong"}, unopened(reply_to="o"), {"type": "pong", "reply_to": "p"}),
    "errors to what has no id": greeted()
    + without_ids(client(creates("t"), opens("x"), {"type": "dance"}))
    + server(refusal("unsupported"), LOG.opened(0), refusal("rate_limited", session="x"))
    + without_ids(server(created("t", 1), LOG.frames[0])),
    "an id used again once it was answered": greeted()
    + client({"type": "ping", "id": "p"})
    + server({"type": "pong", "reply_to": "p"})
    + client({"type": "ping", "id": "p"})
    + server({"type": "pong", "reply_to": "p"}),
    "what is no command": greeted()
    + client({"type": "dance", "id": "d"}, {"type": "ping", "id": "é"}, {"type": "ping", "id": ""})
    + server(refusal("unsupported", reply_to="d"), refusal("bad_frame"), refusal("rate_limited")),
    "nothing readable": greeted() + raw("{") + server(refusal("bad_frame")) + closed(4400),
    "nothing readable, and the connection is lost": greeted() + raw("{") + closed(1006),
    "too large": greeted() + raw(LARGE) + server(refusal("too_large")) + closed(4413),
    "too large for this server": client(hello())
    + server(welcome(limits={**welcome()["limits"], "frame_bytes_max": 1_000}))
    + raw(" " * 1_001)
    + server(refusal("too_large"))
    + closed(4413),
    "a command before hello": client(opens()) + server(refusal("unauthenticated", reply_to="o")) + closed(4401),
    "a command before hello, over the rate": client(opens()) + server(refusal("rate_limited", reply_to="o")),
    "no hello": server(refusal("unauthenticated")) + closed(4508),
    "a token that is nobody's": client(hello()) + server(refusal("unauthenticated", reply_to="h")) + closed(4401),
    "another user's token": greeted()
    + client({"type": "auth.refresh", "id": "a", "token": "x"})
    + server(refusal("forbidden", reply_to="a"))
    + closed(4403),
    "the store did not answer": greeted()
    + client(creates("t"), {"type": "ping"})
    + server(refusal("internal", reply_to="c-t", session="s", turn="t"))
    + closed(4500),
    "an unknown subprotocol": server(refusal("unsupported")) + closed(4406),
    "too slow": greeted() + closed(4513),
    "no pong": greeted() + closed(4510),
    "a cut": greeted() + client(creates("t")) + closed(1006),
    "deleted, then opened empty": WHOLE + server(unopened()) + client(opens(id="o2")) + server(unopened(reply_to="o2")),
    "two sessions": greeted()
    + client(opens("s"), opens("x", id="o2"))
    + server(unopened("x", reply_to="o2"), unopened("s", reply_to="o")),
}


@pytest.mark.parametrize("steps", LEGAL.values(), ids=LEGAL)
def test_a_legal_conversation_breaks_no_rule(steps: list[Step]) -> None:
    play(steps).finish()


BROKEN: dict[str, tuple[str, list[Step]]] = {
    # shapes
    "a field is missing": ("FRAME-1", client(hello()) + server(welcome(user=None))),
    "a field is of another type": ("FRAME-1", reading(LOG, [{**LOG.frames[0], "seq": "1"}])),
    "an unknown type": ("FRAME-1", greeted() + server({"type": "turn.dance"})),
    "no type": ("FRAME-1", server({})),
    "null in place of nothing": ("FRAME-1", client(PING) + server({"type": "pong", "reply_to": None})),
    "null in place of nothing, in a delta": (
        "FRAME-1",
        reading(LOG, [*LOG.frames[:2], {**LOG.frames[2], "last": None}]),
    ),
    "null within": (
        "FRAME-1",
        reading(
            LOG, [*LOG.frames[:-1], {**LOG.frames[-1], "usage": {**LOG.frames[-1]["usage"], "reasoning_tokens": None}}]
        ),
    ),
    "null within a list": (
        "FRAME-1",
        greeted()
        + client(opens())
        + server(LOG.opened(mode="snapshot", turns=1, reply_to="o"))
        + server({**LOG.snapshot()[1], "parts": [{**LOG.snapshot()[1]["parts"][0], "name": None}]}),
    ),
    "a lone surrogate": ("FRAME-1", reading(LOG, [*LOG.frames[:2], {**LOG.frames[2], "text": "\ud800"}])),
    # hello and welcome
    "welcome unasked": ("ANSWER-2", server(welcome())),
    "welcome unasked, without reply_to": ("ANSWER-1", server({k: v for k, v in welcome().items() if k != "reply_to"})),
    "welcome twice": ("HELLO-2", greeted() + server(welcome())),
    "an ack before welcome": ("HELLO-2", client(hello(), CLOSE) + server(ack("k", session="s"))),
    "a session before welcome": ("HELLO-2", client(hello(), opens()) + server(unopened(reply_to="o"))),
    "served before hello": ("HELLO-1", client(opens(), hello()) + server(welcome(), unopened(reply_to="o"))),
    "refused before hello, and left open": (
        "HELLO-1",
        client(opens()) + server(refusal("unauthenticated", reply_to="o")) + AT_REST,
    ),
    "refused before hello, and served": (
        "HELLO-1",
        client(opens(), PING) + server(refusal("unauthenticated", reply_to="o"), {"type": "pong", "reply_to": "p"}),
    ),
    "refused before hello for something else": ("HELLO-1", client(opens()) + server(refusal("busy", reply_to="o"))),
    "refused before hello, and closed otherwise": (
        "HELLO-1",
        client(opens()) + server(refusal("unauthenticated", reply_to="o")) + closed(4403),
    ),
    # answers
    "no answer": ("ANSWER-1", greeted() + client(PING) + AT_REST),
    "no answer to what has no id": ("ANSWER-1", greeted() + client({"type": "ping"}) + AT_REST),
    "an answer of another type": ("ANSWER-1", greeted() + client(PING) + server(ack("p"))),
    "an answer without the id": ("ANSWER-1", greeted() + client(PING) + server({"type": "pong"})),
    "one answer too many to what has no id": (
        "ANSWER-1",
        greeted() + client({"type": "ping"}) + server({"type": "pong"}, {"type": "pong"}),
    ),
    "an ack of nothing": ("ANSWER-1", greeted() + server({"type": "ack", "session": "s"})),
    "answered twice": (
        "ANSWER-2",
        greeted() + client(PING) + server({"type": "pong", "reply_to": "p"}, {"type": "pong", "reply_to": "p"}),
    ),
    "acknowledged, then refused": (
        "ANSWER-2",
        greeted() + client(CLOSE) + server(ack("k", session="s"), refusal("internal", reply_to="k")),
    ),
    "answers what was not asked": ("ANSWER-2", greeted() + server({"type": "pong", "reply_to": "p"})),
    "an ack that lacks a field": ("ANSWER-3", greeted() + client(CLOSE) + server(ack("k"))),
    "an ack with a field too many": ("ANSWER-3", greeted() + client(CLOSE) + server(ack("k", session="s", seq=1))),
    "an ack with an end of its token": (
        "ANSWER-3",
        greeted() + client(CLOSE) + server(ack("k", session="s", expires_at=1)),
    ),
    "an ack of another session": ("ANSWER-3", greeted() + client(CLOSE) + server(ack("k", session="x"))),
    "an ack of another turn": (
        "ANSWER-3",
        greeted() + OPENED_EMPTY + client(creates("t")) + server(created("u", 1, reply_to="c-t")),
    ),
    "a refusal of another turn": (
        "ANSWER-3",
        greeted() + client(creates("t")) + server(refusal("busy", reply_to="c-t", turn="u")),
    ),
    "a create's ack without seq": (
        "ANSWER-3",
        greeted() + OPENED_EMPTY + client(creates("t")) + server(ack("c-t", session="s", turn="t", duplicate=False)),
    ),
    "a cancel's ack without result": ("ANSWER-3", WHOLE + client(CANCEL) + server(ack("x", session="s", turn="t"))),
    "an ack whose seq is another than that of accepted": (
        "ANSWER-3",
        greeted() + OPENED_EMPTY + client(creates("t")) + GIVEN_A_GEN + server(*LOG.frames, created("t", 2)),
    ),
    "accepted at another seq than the ack's": (
        "ANSWER-3",
        greeted() + OPENED_EMPTY + client(creates("t")) + GIVEN_A_GEN + server(created("t", 2), LOG.frames[0]),
    ),
    "an error of nobody's, and on it goes": (
        "ANSWER-4",
        greeted() + server(refusal("internal"), {"type": "auth.expiring", "expires_at": 1}),
    ),
    "an error of nobody's, and silence": ("ANSWER-4", greeted() + server(refusal("internal")) + AT_REST),
    # what is no command
    "nonsense is acknowledged": ("FRAME-4", greeted() + client({"type": "dance", "id": "d"}) + server(ack("d"))),
    "nonsense is refused for something else": (
        "FRAME-4",
        greeted() + client({"type": "dance", "id": "d"}) + server(refusal("busy", reply_to="d")),
    ),
    "nonsense gets no answer": ("FRAME-4", greeted() + client({"type": "dance", "id": "d"}) + AT_REST),
    "nothing readable, and no answer": ("FRAME-3", greeted() + raw("{") + AT_REST),
    "nothing readable, and on it goes": (
        "FRAME-3",
        greeted() + raw("{") + client(PING) + server(refusal("bad_frame"), {"type": "pong", "reply_to": "p"}),
    ),
    "nothing readable, and no close": (
        "FRAME-3",
        greeted() + raw("{") + server(refusal("bad_frame")) + AT_REST,
    ),
    "nothing readable, and another close": (
        "FRAME-3",
        greeted() + raw("{") + server(refusal("bad_frame")) + closed(4500),
    ),
    "nothing readable, refused for something else": (
        "FRAME-3",
        greeted() + raw("{") + server(refusal("rate_limited")),
    ),
    "too large, and no answer": ("SIZE-1", greeted() + raw(LARGE) + AT_REST),
    "too large, and no close": (
        "SIZE-1",
        greeted() + raw(LARGE) + server(refusal("too_large")) + AT_REST,
    ),
    # opening
    "a frame of a session that is not open": ("OPEN-1", greeted() + server(LOG.frames[0])),
    "a frame of another session": ("OPEN-1", reading(LOG, [{**LOG.frames[0], "session": "x"}])),
    "a frame behind the close of its session": (
        "OPEN-1",
        reading(LOG, LOG.frames[:1]) + client(CLOSE) + server(ack("k", session="s"), LOG.frames[1]),
    ),
    "a frame before a gen": ("OPEN-1", greeted() + OPENED_EMPTY + server(LOG.frames[0])),
    "opened unasked": ("OPEN-2", greeted() + server(unopened())),
    "opened for a command of another session": ("OPEN-2", greeted() + client(creates("t", "x")) + server(unopened())),
    "opened anew, unasked, as a replay": ("OPEN-2", reading(LOG) + server(LOG.opened(2))),
    "created in a session that is not open": ("OPEN-3", greeted() + client(creates("t")) + server(created("t", 1))),
    "a create opens its session elsewhere": (
        "OPEN-3",
        greeted() + client(creates("t")) + server(LOG.opened(1), created("t", 1)),
    ),
    "no gen, but a seq": ("OPEN-4", greeted() + client(opens()) + server(unopened(reply_to="o", seq=1))),
    "no gen, but a turn": ("OPEN-4", greeted() + client(opens()) + server(unopened(reply_to="o", turn="t"))),
    "no gen, but snapshots": ("OPEN-4", greeted() + client(opens()) + server(unopened(reply_to="o", turns=1))),
    "no gen, but a replay": ("OPEN-4", greeted() + client(opens()) + server(unopened(reply_to="o", mode="replay"))),
    # order
    "a frame left out": ("SEQ-1", reading(LOG, LOG.frames[1:2])),
    "a frame twice": ("SEQ-1", reading(LOG, [LOG.frames[0], LOG.frames[0]])),
    "two frames swapped": ("SEQ-1", reading(LOG, [LOG.frames[0], LOG.frames[2]])),
    "the acknowledged turn never comes": (
        "SEQ-4",
        greeted() + client(creates("t")) + server(LOG.opened(0), created("t", 1)) + AT_REST,
    ),
    "the acknowledged turn never comes, nor a gen": (
        "SEQ-4",
        greeted() + OPENED_EMPTY + client(creates("t")) + server(created("t", 1)) + AT_REST,
    ),
    "first_seq on what is no delta": ("DELTA-1", reading(LOG, [{**LOG.frames[0], "first_seq": 1}])),
    "first_seq on a delta that is not merged": (
        "DELTA-1",
        reading(LOG, [*LOG.frames[:2], {**LOG.frames[2], "first_seq": 3}]),
    ),
    # the same turn again
    "a second run": ("IDEM-1", WHOLE + client(another(creates("t"))) + server(created("t", 1, reply_to="c-t2"))),
    "a conflict with itself": (
        "IDEM-1",
        WHOLE + client(another(creates("t"))) + server(refusal("turn_conflict", reply_to="c-t2")),
    ),
    "other content is taken for the same": (
        "IDEM-2",
        WHOLE + client(another(creates("t"), model="m2")) + server(created("t", 1, reply_to="c-t2", duplicate=True)),
    ),
    # cancelling
    "a cancel of what has ended": (
        "CANCEL-1",
        WHOLE + client(CANCEL) + server(ack("x", session="s", turn="t", result="cancelling")),
    ),
    "a pending cancel of what exists": (
        "CANCEL-1",
        reading(LOG, LOG.frames[:2]) + client(CANCEL) + server(ack("x", session="s", turn="t", result="pending")),
    ),
    "a cancel that ends nothing": (
        "CANCEL-2",
        reading(LOG, LOG.frames[:2])
        + client(CANCEL)
        + server(ack("x", session="s", turn="t", result="cancelling"))
        + AT_REST,
    ),
    "a cancel in a session without turns that ends nothing": (
        "CANCEL-2",
        greeted()
        + OPENED_EMPTY
        + client(CANCEL)
        + server(ack("x", session="s", turn="t", result="cancelling"))
        + AT_REST,
    ),
    "two different responses": (
        "ASK-3",
        reading(LOG, LOG.frames[:2])
        + client(RESPOND, another(RESPOND, value={"ok": False}))
        + server(ack("r", session="s", turn="t"), ack("r2", session="s", turn="t")),
    ),
    # the end
    "a code that is not in the table": ("CLOSE-1", greeted() + closed(4999)),
    "closed without an error": ("CLOSE-2", greeted() + closed(4500)),
    "closed before anything was sent": ("CLOSE-2", closed(4508)),
    "closed with another error": ("CLOSE-2", greeted() + server(refusal("busy")) + closed(4500)),
    "a frame behind the close": ("CLOSE-3", greeted() + closed(1000) + server({"type": "pong"})),
}


@pytest.mark.parametrize(("rule", "steps"), BROKEN.values(), ids=BROKEN)
def test_an_illegal_conversation_breaks_its_rule_at_its_last_step(rule: str, steps: list[Step]) -> None:
    *before, (kind, what) = steps
    verifier = play(before)
    with pytest.raises(RuleBroken) as caught:
        if kind == "finish":
            verifier.finish()
        elif kind == "closed":
            verifier.closed(what)
        else:
            verifier.server_sent(what)
    assert caught.value.rule == rule


def test_every_rule_of_a_connection_alone_is_broken_here_or_beside() -> None:
    """The rest of what is checked: test_grammar_turns.py and test_grammar_history.py."""
    assert {rule for rule, _ in BROKEN.values()} >= {
        *("FRAME-1", "FRAME-3", "FRAME-4", "SIZE-1", "HELLO-1", "HELLO-2", "ANSWER-1", "ANSWER-2", "ANSWER-3"),
        *("ANSWER-4", "OPEN-1", "OPEN-2", "OPEN-3", "OPEN-4", "SEQ-1", "SEQ-4", "DELTA-1", "IDEM-1", "IDEM-2"),
        *("CANCEL-1", "CANCEL-2", "ASK-3", "CLOSE-1", "CLOSE-2", "CLOSE-3"),
    }


def test_the_same_response_may_be_acknowledged_again() -> None:
    steps = client(RESPOND, another(RESPOND)) + server(
        ack("r", session="s", turn="t"), ack("r2", session="s", turn="t")
    )
    play(reading(LOG, LOG.frames[:2]) + steps).finish()


def test_a_response_in_a_session_of_which_nothing_is_known_is_only_counted() -> None:
    play(greeted() + client(RESPOND) + server(ack("r", session="s", turn="t"))).finish()


def test_what_a_client_sends_may_be_shown_as_bytes_of_its_own_encoding() -> None:
    verifier = Verifier(codec=MSGPACK)
    verifier.client_sent(raw=MSGPACK.encode(hello()))
    verifier.client_sent(opens())
    for frame in (welcome(), unopened(reply_to="o")):
        verifier.server_sent(frame)
    verifier.client_sent(raw="text")
    verifier.server_sent(refusal("bad_frame"))
    verifier.closed(4400)
    verifier.finish()


def test_after_a_change_of_gen_earlier_acks_bind_nobody() -> None:
    """The turn was lost with the end of the old history, so its seq means nothing, and it may be accepted anew."""
    new = Log(gen="g2")
    new.updated()
    new.answer("t", "again")
    steps = (
        greeted()
        + client(creates("t"))
        + server(LOG.opened(0), created("t", 1), *LOG.frames[:2], *new.snapshot(1))
        + client(another(creates("t")))
        + server(*new.frames[1:], created("t", 2, reply_to="c-t2"))
    )
    play(steps).finish()


def test_histories_do_not_mix_unless_shared() -> None:
    again = greeted() + client(creates("t")) + server(LOG.opened(0), created("t", 1))
    play(again, History())
    history = History()
    play(WHOLE, history).finish()
    with pytest.raises(RuleBroken) as caught:
        play(again, history)
    assert caught.value.rule == "IDEM-1"
