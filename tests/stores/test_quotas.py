"""Quotas in the store: claimed and settled with the turn, exact whoever races, and free again after whoever died."""

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.stores.making import SESSION, append, asking, batch, key, make_overdue, request, sealing
from tests.stores.server import StoreServer
from turnwire.core.log_values import AcceptRequest, Counted, Seal, SessionKey
from turnwire.core.quotas import NOTHING, Plan, Used
from turnwire.stores.redis.keys import quota_keys, unsettled_name
from turnwire.stores.redis.limits import RedisQuotas
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import RedisSessionLog

ESTIMATE = Used(100, 1_000)
USED = Used(30, 300)
DAY_MS = 86_400_000


@pytest.fixture
async def quotas(server: StoreServer) -> AsyncIterator[RedisQuotas]:
    async with RedisQuotas(Link(server.url)) as quotas:
        yield quotas


def counted(plan: Plan | None = None, **changes: Any) -> Counted:
    return Counted(ESTIMATE, plan or Plan(turns_running=100), **changes)


def turn_in(session: str, turn: str = "t1", plan: Plan | None = None, **changes: Any) -> AcceptRequest:
    return request(
        key(turn, SessionKey("alice", session)), counted=counted(plan, **changes.pop("counted", {})), **changes
    )


def end(turn: AcceptRequest, used: Used = USED, *, state: Any = "done", **changes: Any) -> Any:
    sealed = sealing(turn.key, state=state, **changes)
    seal = sealed.seal
    assert seal is not None
    return batch(turn.key, entries=sealed.entries, seal=Seal(seal.state, seal.record, used), **changes)


@contextmanager
def peeked(server: StoreServer) -> Generator[Any]:
    """The store as it is, past all scripts."""
    with server.client() as client:
        yield client


def of_user(server: StoreServer) -> dict[str, int]:
    """Alice's quota, without what is not counted in tokens or money."""
    with peeked(server) as client:
        found = client.hgetall(quota_keys("user", "alice")[0])
    return {name: int(value) for name, value in found.items()}


def running(server: StoreServer, kind: Any = "user", name: str = "alice") -> set[str]:
    with peeked(server) as client:
        return {member for member in client.zrange(quota_keys(kind, name)[1], 0, -1)}


def claims(server: StoreServer, kind: Any, name: str) -> set[str]:
    with peeked(server) as client:
        return {member for member in client.zrange(quota_keys(kind, name)[2], 0, -1)}


# --- a user's, in the step of the turn -------------------------------------------------------------------------------


async def test_exactly_as_many_as_may_run_are_accepted_whoever_races(
    log: RedisSessionLog, other: RedisSessionLog
) -> None:
    plan = Plan(turns_running=10)
    answers = await asyncio.gather(
        *(
            node.accept_turn(turn_in(f"s{number}", plan=plan))
            for number in range(50)
            for node in [(log, other)[number % 2]]
        )
    )
    results = [answer.result for answer in answers]
    assert (results.count("running"), results.count("limited")) == (10, 40)
    assert {answer.limit for answer in answers if answer.result == "limited"} == {"turns_running"}
    assert min(answer.left[1] or 0 for answer in answers if answer.left) == 0


async def test_a_place_is_free_when_its_turn_is_over_and_not_before(log: RedisSessionLog, server: StoreServer) -> None:
    plan = Plan(turns_running=1)
    first, second = turn_in("s1", plan=plan), turn_in("s2", plan=plan)
    await log.accept_turn(first)
    assert (await log.accept_turn(second)).result == "limited"
    await append(log, asking(first.key, "a1", nonce=first.nonce))
    assert (await log.accept_turn(second)).result == "limited"  # it waits for an answer, and will go on
    await log.cancel_turn(first.key, "alice", "")
    taken = await log.take_turn(first.key, "n2")
    assert taken.request is not None and taken.request.counted is not None
    await append(log, end(first, nonce="n2", counter=1))
    assert running(server) == set()
    assert (await log.accept_turn(second)).result == "running"


async def test_a_queued_turn_takes_the_place_of_the_one_before_it(log: RedisSessionLog, server: StoreServer) -> None:
    plan = Plan(turns_running=1)
    first = turn_in("s1", plan=plan)
    await log.accept_turn(first)
    waiting = turn_in("s1", "t2", plan, on_busy="queue")
    assert (await log.accept_turn(waiting)).result == "queued"
    assert running(server) == {"s1:t1"}
    await append(log, end(first))
    assert running(server) == {"s1:t2"}
    assert (await log.accept_turn(turn_in("s2", plan=plan))).result == "limited"


async def test_turns_come_at_the_rate_of_the_plan_and_the_wait_that_is_told_is_true(
    log: RedisSessionLog, server: StoreServer
) -> None:
    plan = Plan(turns_per_minute=3)
    answers = [await log.accept_turn(turn_in(f"s{number}", plan=plan)) for number in range(4)]
    assert [answer.result for answer in answers] == ["running"] * 3 + ["limited"]
    assert [answer.left[0] for answer in answers[:3]] == [2, 1, 0]
    wait_ms = answers[3].retry_after_ms
    assert 19_000 < wait_ms <= 20_000
    with peeked(server) as client:  # the store's clock cannot be moved: move what it is compared with
        client.hincrby(quota_keys("user", "alice")[0], "tat", -1_000 * wait_ms)
    assert (await log.accept_turn(turn_in("s9", plan=plan))).result == "running"
    assert (await log.accept_turn(turn_in("s8", plan=plan))).limit == "turns_per_minute"


async def test_a_minute_that_is_more_than_full_leaves_nothing_and_not_less(
    log: RedisSessionLog, quotas: RedisQuotas, server: StoreServer
) -> None:
    """The store's clock was set back, or the plan was changed in the middle of the minute."""
    plan = Plan(turns_per_minute=2)
    for number in range(2):
        await log.accept_turn(turn_in(f"s{number}", plan=plan))
    with peeked(server) as client:
        client.hincrby(quota_keys("user", "alice")[0], "tat", 5_000_000)
    assert (await quotas.left("user", "alice", plan))[0] == 0
    assert (await log.accept_turn(turn_in("s9", plan=plan))).retry_after_ms > 30_000


async def test_what_is_refused_or_sent_again_uses_up_nothing(log: RedisSessionLog, server: StoreServer) -> None:
    plan = Plan(turns_per_minute=10, tokens_per_day=1_000)
    first = turn_in("s1", plan=plan)
    await log.accept_turn(first)
    before = of_user(server)
    assert (await log.accept_turn(first)).result == "running"
    assert (await log.accept_turn(turn_in("s1", plan=plan, nonce="other"))).result == "duplicate"
    assert (await log.accept_turn(turn_in("s1", plan=plan, nonce="n3", digest="d2"))).result == "conflict"
    assert (await log.accept_turn(turn_in("s1", "t2", plan))).result == "busy"
    assert (await log.accept_turn(turn_in("s2", "t1", plan, parent=("none",)))).result == "no_parent"
    assert of_user(server) == before
    # A turn that is there is a duplicate, however much was used since.
    broke = Plan(tokens_per_day=0)
    assert (await log.accept_turn(turn_in("s1", plan=broke, nonce="again"))).result == "duplicate"
    assert (await log.accept_turn(turn_in("s3", plan=broke))).limit == "tokens_per_day"


async def test_tokens_and_money_are_claimed_by_estimate_and_settled_once(
    log: RedisSessionLog, server: StoreServer
) -> None:
    plan = Plan(tokens_per_day=250, usd_per_month=2_500)
    turns = [turn_in(f"s{number}", plan=plan) for number in range(3)]
    answers = [await log.accept_turn(turn) for turn in turns]
    assert [answer.result for answer in answers] == ["running", "running", "limited"]
    assert answers[1].left == [None, None, 50, None, None, 500]
    assert 0 < answers[2].retry_after_ms <= DAY_MS
    sealed = end(turns[0])
    await append(log, sealed)
    await append(log, sealed)  # its reply was lost
    left = await log.accept_turn(turns[2])
    assert (left.result, left.left) == ("running", [None, None, 20, None, None, 200])
    await append(log, end(turns[1], NOTHING))
    await append(log, end(turns[2], Used(1, 1)))
    used = of_user(server)
    assert (used["claimed_tokens"], used["claimed_nano"]) == (0, 0)
    assert (used["day_tokens"], used["month_tokens"], used["day_nano"], used["month_nano"]) == (31, 31, 301, 301)


async def test_a_turn_larger_than_the_whole_limit_runs_while_nothing_of_it_is_used(log: RedisSessionLog) -> None:
    plan = Plan(tokens_per_day=50)
    first = turn_in("s1", plan=plan)
    assert (await log.accept_turn(first)).left[2] == 0
    assert (await log.accept_turn(turn_in("s2", plan=plan))).limit == "tokens_per_day"
    await append(log, end(first, NOTHING))
    assert (await log.accept_turn(turn_in("s2", plan=plan))).result == "running"


@pytest.mark.parametrize("limit", ["tokens_per_day", "tokens_per_month", "usd_per_day", "usd_per_month"])
async def test_a_limit_of_nothing_allows_nothing(log: RedisSessionLog, limit: Any) -> None:
    nothing: Any = {limit: 0}
    assert (await log.accept_turn(turn_in("s1", plan=Plan(**nothing)))).limit == limit


async def test_what_was_accepted_once_or_is_over_at_once_is_taken_however_much_was_used(log: RedisSessionLog) -> None:
    broke = Plan(tokens_per_day=0)
    back = await log.accept_turn(turn_in("s1", plan=broke, put_back=True))
    assert back.result == "running"  # the store had lost it
    await log.cancel_turn(key("t2", SessionKey("alice", "s2")), "alice", "")
    assert (await log.accept_turn(turn_in("s2", "t2", broke))).result == "sealed"


async def test_a_new_day_and_a_new_month_begin_at_nothing(log: RedisSessionLog, server: StoreServer) -> None:
    plan = Plan(tokens_per_day=100, tokens_per_month=200)
    first = turn_in("s1", plan=plan)
    await log.accept_turn(first)
    await append(log, end(first, Used(100, 0)))
    refused = await log.accept_turn(turn_in("s2", plan=plan))
    assert refused.limit == "tokens_per_day"
    quota = quota_keys("user", "alice")[0]
    now = datetime.now(UTC)
    with peeked(server) as client:
        client.hincrby(quota, "day", -1)
    second = turn_in("s2", plan=plan)
    assert (await log.accept_turn(second)).result == "running"
    await append(log, end(second, Used(100, 0)))
    with peeked(server) as client:
        client.hincrby(quota, "day", -1)
    refused = await log.accept_turn(turn_in("s3", plan=plan))
    assert refused.limit == "tokens_per_month"
    following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    assert abs(refused.retry_after_ms - (following - now).total_seconds() * 1000) < 60_000
    with peeked(server) as client:
        client.hincrby(quota, "month", -1)
    assert (await log.accept_turn(turn_in("s3", plan=plan))).result == "running"


async def test_turns_that_end_without_a_writer_are_settled_too(log: RedisSessionLog, server: StoreServer) -> None:
    plan = Plan(tokens_per_day=10_000)
    await log.accept_turn(turn_in("s1", plan=plan))
    await log.accept_turn(turn_in("s1", "t2", plan, on_busy="queue"))
    await log.cancel_turn(key("t2"), "alice", "")
    assert of_user(server)["claimed_tokens"] == 100
    await log.cancel_turn(key("t9", SessionKey("alice", "s9")), "alice", "")
    assert (await log.accept_turn(turn_in("s9", "t9", plan))).result == "sealed"
    assert of_user(server)["claimed_tokens"] == 100
    await log.accept_turn(turn_in("s1", "t3", plan, on_busy="queue"))
    await log.delete_session(SESSION, "d1")
    used = of_user(server)
    # Of the one that ran nobody knows how far it came: as much as was claimed. The one that waited cost nothing.
    assert (used["claimed_tokens"], used["day_tokens"]) == (0, 100)
    assert running(server) == set()


@pytest.mark.parametrize("state", ["done", "error"])
async def test_what_is_over_is_not_settled_again_with_its_session(
    log: RedisSessionLog, server: StoreServer, state: Any
) -> None:
    turn = turn_in("s1", plan=Plan(tokens_per_day=10_000))
    await log.accept_turn(turn)
    await append(log, end(turn, state=state))
    before = of_user(server)
    await log.delete_session(SESSION, "d1")
    assert of_user(server) == before


@pytest.mark.parametrize(("org", "address"), [("acme", None), (None, "192.0.2.1"), (None, None)])
async def test_only_what_others_have_a_part_in_is_noted_for_them(
    log: RedisSessionLog, server: StoreServer, org: str | None, address: str | None
) -> None:
    turn = turn_in("s1", counted={"org": org, "address": address})
    await log.accept_turn(turn)
    await append(log, end(turn))
    with peeked(server) as client:
        noted = client.zrange(unsettled_name("alice"), 0, -1)
    assert noted == ([f"alice:s1:t1 {org or ''} {address or ''} 100 1000 30 300"] if org or address else [])


async def test_whoever_takes_a_turn_over_settles_it_in_its_writers_place(
    log: RedisSessionLog, other: RedisSessionLog, server: StoreServer
) -> None:
    await log.accept_turn(turn_in("s1", counted={"org": "acme inc", "address": "192.0.2.1"}))
    make_overdue(server, key())
    taken = await other.take_turn(key(), "n2")
    assert taken.request is not None
    assert taken.request.counted == Counted(ESTIMATE, org="acme inc", address="192.0.2.1")
    await append(other, end(taken.request, nonce="n2"))
    assert of_user(server)["day_tokens"] == 30


# --- an organisation's and an address's, around it -------------------------------------------------------------------


async def test_a_shared_quota_is_exact_whoever_races(server: StoreServer, quotas: RedisQuotas) -> None:
    plan = Plan(turns_per_minute=10)
    turns = [key("t", SessionKey(f"user{number}", "s")) for number in range(50)]
    async with RedisQuotas(Link(server.url)) as others:
        answers = await asyncio.gather(
            *(
                (quotas, others)[place % 2].claim("org", "acme", plan, turn, ESTIMATE)
                for place, turn in enumerate(turns)
            )
        )
    assert [answer.limit for answer in answers].count(None) == 10
    assert await quotas.left("org", "acme", plan) == [0, None, None, None, None, None]
    assert await quotas.left("address", "acme", plan) == [10, None, None, None, None, None]


async def test_a_claim_is_made_once_and_given_back_whole(server: StoreServer, quotas: RedisQuotas) -> None:
    plan = Plan(turns_per_minute=2, turns_running=5, tokens_per_day=200)
    for _ in range(2):
        answer = await quotas.claim("org", "acme", plan, key(), ESTIMATE)
        assert (answer.limit, answer.left) == (None, [1, 4, 100, None, None, None])
    for _ in range(2):
        await quotas.give_back("org", "acme", plan, key(), ESTIMATE)
        assert await quotas.left("org", "acme", plan) == [2, 5, 200, None, None, None]
    # The last place is as good for whoever has it as any other.
    for _ in range(2):
        assert (await quotas.claim("org", "small", Plan(turns_running=1), key(), ESTIMATE)).limit is None


async def test_a_turn_that_waits_has_no_place_and_one_that_runs_has(quotas: RedisQuotas, server: StoreServer) -> None:
    plan = Plan(turns_running=9)
    await quotas.claim("org", "acme", plan, key(), ESTIMATE)
    assert running(server, "org", "acme") == {"alice:s1:t1"}
    await quotas.confirm(key(), counted(org="acme"))
    assert running(server, "org", "acme") == set()
    await quotas.hold([(key(), counted(org="acme"))])
    assert running(server, "org", "acme") == {"alice:s1:t1"}


async def test_a_turn_that_finds_no_place_to_run_may_still_wait_for_one(
    quotas: RedisQuotas, log: RedisSessionLog
) -> None:
    plan = Plan(turns_running=1)
    await quotas.claim("org", "acme", plan, key("t1"), ESTIMATE)
    second = await quotas.claim("org", "acme", plan, key("t2"), ESTIMATE)
    assert second.limit == "turns_running"
    waits = {"org": "acme", "others": "wait"}
    await log.accept_turn(turn_in("s1", "t1", counted={"org": "acme"}))
    assert (await log.accept_turn(turn_in("s1", "t2", on_busy="queue", counted=waits))).result == "queued"
    refused = await log.accept_turn(turn_in("s2", "t3", counted=waits))
    assert (refused.result, refused.limit) == ("limited", None)
    none = await log.accept_turn(turn_in("s1", "t4", on_busy="queue", counted={"org": "acme", "others": "refuse"}))
    assert none.result == "limited"


async def test_a_shared_quota_is_settled_once_by_its_node_or_by_the_sweep(
    log: RedisSessionLog, quotas: RedisQuotas, server: StoreServer
) -> None:
    plan = Plan(tokens_per_day=1_000, usd_per_day=10_000)
    held = counted(org="acme inc", address="2001:db8::/64")
    turn = turn_in("s1", counted={"org": held.org, "address": held.address})
    for kind, name in held.shared:
        await quotas.claim(kind, name, plan, turn.key, ESTIMATE)
    await log.accept_turn(turn)
    await quotas.hold([(turn.key, held)])
    await append(log, end(turn))
    assert await quotas.unsettled(10) == []  # its node has a while to do it
    with peeked(server) as client:
        index = unsettled_name("alice")
        client.zadd(index, {member: 1 for member in client.zrange(index, 0, -1)})
    found = await quotas.unsettled(10)
    assert [(turn_key, used) for turn_key, _, used in found] == [(turn.key, USED)]
    for turn_key, whose, used in [*found, *found]:
        await quotas.settle(turn_key, whose, used)
    for kind, name in held.shared:
        assert await quotas.left(kind, name, plan) == [None, None, 970, None, 9_700, None]
        assert claims(server, kind, name) == running(server, kind, name) == set()
    assert await quotas.unsettled(10) == []


async def test_a_claim_that_nobody_confirms_is_dropped_and_one_that_is_held_stays(
    quotas: RedisQuotas, server: StoreServer
) -> None:
    plan = Plan(tokens_per_day=250, turns_running=2)
    await quotas.claim("org", "acme", plan, key("t1"), ESTIMATE)
    await quotas.claim("org", "acme", plan, key("t2"), ESTIMATE)
    await quotas.confirm(key("t2"), counted(org="acme"))
    _, places, open_claims = quota_keys("org", "acme")
    with peeked(server) as client:
        for member, until in client.zrange(open_claims, 0, -1, withscores=True):
            client.zadd(open_claims, {member: until - 200_000})
        for member in client.zrange(places, 0, -1):
            client.zadd(places, {member: 1})
    third = await quotas.claim("org", "acme", plan, key("t3"), ESTIMATE)
    assert (third.limit, third.left[2], third.left[1]) == (None, 50, 1)
    assert claims(server, "org", "acme") == {"alice:s1:t2 100 1000", "alice:s1:t3 100 1000"}


async def test_connections_have_places_which_come_free_when_their_node_dies(
    quotas: RedisQuotas, server: StoreServer
) -> None:
    entered = [await quotas.enter("user", "alice", name, 2) for name in ("c1", "c2", "c1", "c3")]
    assert entered == [True, True, True, False]
    assert await quotas.enter("user", "bob", "c3", 2)
    await quotas.leave([("user", "alice", "c1")])
    assert await quotas.enter("user", "alice", "c3", 2)
    with peeked(server) as client:
        (places,) = [name for name in client.keys("*connections") if "alice" in name]
        client.zadd(places, {"c2": 1, "c3": 1})
    await quotas.stay([("user", "alice", "c3")])
    assert await quotas.enter("user", "alice", "c4", 2)
    assert not await quotas.enter("user", "alice", "c5", 2)


@pytest.mark.parametrize("first", ["2023-12-31", "2024-02-29", "2024-12-31", "2100-02-28", "2026-11-30", "1970-01-31"])
async def test_months_are_those_of_the_calendar(server: StoreServer, first: str) -> None:
    """The scripts know no calendar but their own: the days around ends of months, common ones and odd ones."""
    from importlib import resources

    text = resources.files("turnwire.stores.redis").joinpath("lua", "_quota.lua").read_text()
    day = (datetime.fromisoformat(first).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    with peeked(server) as client:
        months = client.eval(
            text + "\nlocal m = {} for d = ARGV[1] - 27, ARGV[1] + 2 do m[#m + 1] = month_of(d) end return m", 0, day
        )
    assert [month - months[0] for month in months] == [0] * 28 + [1, 1]
