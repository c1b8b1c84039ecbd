"""The scripts against the model: any order of calls, repeated and refused ones too, gives the same answers and log."""

import asyncio
import secrets
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.stores.making import make_overdue, request, text
from tests.stores.model import OVER, ModelLog
from tests.stores.server import StoreServer
from turnwire.core.entries import Delta, Event
from turnwire.core.log_values import Batch, Seal, SessionChange, SessionKey
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog

QUEUE_MAX = 2
PENDING_MAX = 2
TURNS = ["t1", "t2", "t3", "t4", "t5"]

turns = st.sampled_from(TURNS)
nonces = st.sampled_from(["n1", "n2"])
people = st.sampled_from(["ann", "bob"])


class LogMachine(RuleBasedStateMachine):
    """One session, five turns, two nodes."""

    def __init__(self, server: StoreServer) -> None:
        super().__init__()
        self.server = server
        self.session = SessionKey(secrets.token_hex(8), "s")
        self.model = ModelLog(QUEUE_MAX)
        self.sent: list[tuple[Batch, str | None]] = []
        self.gen = ""
        limits = LogLimits(queue_turns_max=QUEUE_MAX, pending_cancels_max=PENDING_MAX)
        self.log = RedisSessionLog(Link(server.url), node="here", limits=limits)
        self.runner = asyncio.Runner()
        self.runner.run(self.log.__aenter__())

    def teardown(self) -> None:
        self.runner.run(self.log.__aexit__(None, None, None))
        self.runner.close()

    def do(self, call: Any) -> Any:
        return self.runner.run(call)

    # --- calls ----------------------------------------------------------------------------------------------------

    @rule(
        turn=turns,
        nonce=nonces,
        digest=st.sampled_from(["same", "same", "other"]),
        on_busy=st.sampled_from(["reject", "queue", "queue", "interrupt"]),
        by=people,
        put_back=st.sampled_from([False, False, False, True]),
    )
    def accept(self, turn: str, nonce: str, digest: str, on_busy: str, by: str, put_back: bool) -> None:
        """`put_back`: by a writer that had the turn in a history that is lost, or thinks so."""
        before = len(self.model.log)
        known = turn in self.model.turns
        on_busy = "reject" if put_back else on_busy
        expected = self.model.accept(turn, nonce, digest, on_busy, by, put_back)
        changes = {"digest": digest, "on_busy": on_busy, "author": by, "put_back": put_back}

        accepted = self.do(self.log.accept_turn(request(self.session.turn(turn), nonce, **changes)))

        assert (accepted.result, accepted.seq, accepted.parent) == expected
        if not known:
            assert [entry.seq for entry in accepted.logged] == list(range(before + 1, len(self.model.log) + 1))

    @precondition(lambda self: self.model.turns)
    @rule(data=st.data(), ending=st.sampled_from([None, None, "done", "error", "park"]), right=st.integers(0, 9))
    def append(self, data: Any, ending: str | None, right: int) -> None:
        """Mostly the next batch of whoever may write; sometimes somebody's who may not."""
        turn = data.draw(st.sampled_from(sorted(self.model.turns)))
        known = self.model.turns[turn]
        nonce = known.holder if known.holder and right else data.draw(nonces)
        counter = known.counter if right != 1 else known.counter + 1
        texts = data.draw(st.lists(st.sampled_from(["a", "bc", "ü"]), min_size=0 if ending else 1, max_size=3))
        key = self.session.turn(turn)
        entries = text(key, *texts)
        if ending == "park":
            entries.append(Event("turn.asked", turn, b"{}", {"request": f"r{counter}"}))
        elif ending is not None:
            entries.append(Event(f"turn.{ending}", turn, b"{}"))
        batch = Batch(
            key,
            nonce,
            secrets.token_hex(4),
            counter,
            entries,
            Seal("done" if ending == "done" else "error", b"{}") if ending in OVER else None,
            2**52 if ending == "park" else None,
        )
        self.sent.append((batch, ending))
        self._send(batch, ending)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def append_again(self, data: Any) -> None:
        """As after a lost reply, or by a node that slept for long."""
        self._send(*data.draw(st.sampled_from(self.sent[-4:])))

    def _send(self, batch: Batch, ending: str | None) -> None:
        texts = [entry.text for entry in batch.entries if isinstance(entry, Delta)]
        expected = self.model.append(batch.key.turn, batch.nonce, batch.batch, batch.counter, texts, ending)

        (answer,) = self.do(self.log.append_many([batch]))

        assert (answer.result, answer.first_seq) == expected[:2]
        if answer.result == "ok":
            assert answer.next == expected[2]
            assert answer.cancel_by == self.model.turns[batch.key.turn].cancel_by
        if answer.result in ("ok", "dup", "regressed"):
            assert answer.counter == self.model.turns[batch.key.turn].counter

    @rule(turn=turns, by=people)
    def cancel(self, turn: str, by: str) -> None:
        expected = self.model.cancel(turn, by, PENDING_MAX)
        cancelled = self.do(self.log.cancel_turn(self.session.turn(turn), by, ""))
        assert (cancelled.result, cancelled.take) == expected

    @precondition(lambda self: any(turn.asks for turn in self.model.turns.values()))
    @rule(data=st.data(), value=st.sampled_from(["1", "2"]))
    def respond(self, data: Any, value: str) -> None:
        asked = [(name, ask) for name, turn in sorted(self.model.turns.items()) for ask in turn.asks]
        turn, ask = data.draw(st.sampled_from(asked))
        expected = self.model.respond(turn, ask, value)
        responded = self.do(self.log.respond_turn(self.session.turn(turn), ask, "ann", value.encode()))
        assert (responded.result, responded.take) == expected

    @rule(turn=turns, nonce=nonces, claim=st.sampled_from(["ownerless", "overdue", "overdue", "foreign"]))
    def take(self, turn: str, nonce: str, claim: Any) -> None:
        expected = self.model.take(turn, nonce, claim)
        taken = self.do(self.log.take_turn(self.session.turn(turn), nonce, claim))
        if taken.result != "taken":
            assert taken.result == expected[0]
            return
        assert (taken.result, taken.state, taken.takes) == expected
        known = self.model.turns[turn]
        assert (taken.counter, taken.cancel_by, taken.accepted_seq) == (known.counter, known.cancel_by, known.seq)
        assert taken.answers == {name: value.encode() for name, value in known.asks.items() if value}
        places = [seq for seq, place in enumerate(self.model.log, 1) if place[1] == turn]
        assert [entry.seq for entry in taken.entries] == places

    @rule(turn=turns, nonce=nonces)
    def renew(self, turn: str, nonce: str) -> None:
        (renewed,) = self.do(self.log.renew_leases([(self.session.turn(turn), nonce)]))
        assert renewed.result == self.model.renew(turn, nonce)

    @rule(title=st.sampled_from(["one", "two"]))
    def update(self, title: str) -> None:
        expected = self.model.update(title)
        updated = self.do(self.log.update_session(self.session, SessionChange(title=f'"{title}"'.encode())))
        assert (None if updated is None else bool(updated.logged)) == expected
        assert updated is None or updated.info.title == title

    @precondition(lambda self: any(turn.state not in OVER for turn in self.model.turns.values()))
    @rule(data=st.data())
    def time_runs_out(self, data: Any) -> None:
        unfinished = [name for name, turn in sorted(self.model.turns.items()) if turn.state not in OVER]
        turn = data.draw(st.sampled_from(unfinished))
        self.model.run_out(turn)
        make_overdue(self.server, self.session.turn(turn))

    # --- what every reader sees -----------------------------------------------------------------------------------

    @invariant()
    def the_log_is_the_models(self) -> None:
        place = self.do(self.log.read_range(self.session, 0, 1_000))
        assert place.head == len(self.model.log)
        found = [
            ("turn.delta", entry.entry.turn, entry.entry.text)
            if isinstance(entry.entry, Delta)
            else (entry.entry.type, entry.entry.turn, "")
            for entry in place.entries
        ]
        assert found == self.model.log
        assert [entry.seq for entry in place.entries] == list(range(1, place.head + 1))
        active = self.model.active
        overdue = active is not None and self.model.turns[active].overdue
        assert place.overdue == (active if overdue else None)

    @invariant()
    def the_view_is_the_models(self) -> None:
        view = self.do(self.log.read_view(self.session, 100))
        assert (view.head, view.leaf) == (len(self.model.log), self.model.leaf)
        assert {turn.turn: (turn.state, turn.parent) for turn in view.turns} == {
            name: (turn.state, turn.parent) for name, turn in self.model.turns.items()
        }

    @invariant()
    def what_is_overdue_is_the_models(self) -> None:
        due = self.do(self.log.overdue_turns(1_000))
        assert {key.turn for key in due if key.session_key == self.session} == self.model.overdue()

    @invariant()
    def every_turn_has_at_most_one_terminal_and_nothing_after_it(self) -> None:
        for name, turn in self.model.turns.items():
            own = [kind for kind, of, _ in self.model.log if of == name]
            assert own[0] == "turn.accepted"
            ends = [kind for kind in own if kind in ("turn.done", "turn.error")]
            assert len(ends) == (turn.state in OVER)
            assert not ends or own[-1] == ends[0]


def run(server: StoreServer, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        cast("type[LogMachine]", lambda: LogMachine(server)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            print_blob=True,
        ),
    )


def test_the_scripts_do_what_the_model_does(server: StoreServer) -> None:
    run(server, examples=40, steps=40)


@pytest.mark.prove
def test_the_scripts_do_what_the_model_does_for_long(server: StoreServer) -> None:
    run(server, examples=2_000, steps=60)
