"""One turn from its lease to its end, on a real store: what it asks its provider, and what its terminal says."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from tests.runtime.test_attempts import Scripted, Step, forever
from tests.runtime.test_backend import SETTINGS, create, ended, refused
from tests.stores.making import SESSION, caller, key, make_overdue, quotas_beside
from tests.stores.server import StoreServer
from tests.support.waiting import until
from turnwire.app import Node, SystemClock
from turnwire.core.entries import Content, Event, Finish, Message, ProviderEvent, UsageReport
from turnwire.core.spending import Budget, Rates
from turnwire.core.tokens import tokens_likely
from turnwire.ports import Failure, Model, Provider, Retries, SessionLog
from turnwire.stores.redis.link import Link
from turnwire.stores.redis.log import LogLimits, RedisSessionLog
from turnwire_protocol.commands import TurnCancel, TurnRespond

RATES = Rates(Decimal(1), Decimal(2))
HURRIED = Retries(wait_first_ms=1, wait_ms_max=4)
IMAGE = {"type": "image", "media_type": "image/png", "data": "AAAA"}
TOOLS = [{"name": "clock", "description": "tells the time"}]
USED = UsageReport(1_000, 500)


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def answer(text: str = "Fine.", reason: Any = "stop", *more: ProviderEvent) -> Sequence[Step]:
    return [[Content(0, "text", text)], [*more, Finish(reason)]]


def calling(*calls: int, text: str = "Let me look.") -> Sequence[Step]:
    """A step that says something and calls tools."""
    contents = [Content(number, "tool_call", "{}", f"call-{number}", "clock") for number in calls]
    return [[Content(0, "text", text)], list(contents), [USED, Finish("tool_calls")]]


def model_of(provider: Provider, **options: Any) -> Model:
    return replace(Model(provider.name, provider, retries=HURRIED), **options)


@asynccontextmanager
async def running(server: StoreServer, *models: Model, name: str = "here") -> AsyncGenerator[Node]:
    """A node whose default is the first model."""
    async with RedisSessionLog(Link(server.url), node=name, limits=LogLimits(lease_ms=2_000)) as log:
        node = Node(SETTINGS, log, quotas_beside(log), {model.name: model for model in models}, SystemClock())
        tasks = [asyncio.create_task(work) for work in node.tasks().values()]
        try:
            yield node
        finally:
            await node.running.abandon()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def begin(node: Node, turn: str = "t1", text: str = "hi", **fields: Any) -> None:
    await node.backend.create_turn(caller("alice"), create(turn, **{"input": [said(text)], **fields}))


async def end_of(log: RedisSessionLog, turn: str = "t1") -> dict[str, Any]:
    """The turn's terminal, once it is there."""
    terminal = await ended(log, turn)
    return {"type": terminal.type, **orjson.loads(terminal.body)}


async def parked(log: SessionLog, turn: str = "t1") -> list[str]:
    """The requests of a turn that waits, once it does."""
    found: list[str] = []

    async def look() -> None:
        while not found:
            view = await log.read_view(SESSION, 10)
            found.extend(
                logged.entry.fields["request"]
                for stored in view.turns
                if stored.turn == turn and stored.state == "parked"
                for logged in stored.entries
                if isinstance(logged.entry, Event) and logged.entry.type == "turn.asked"
            )

    await asyncio.wait_for(look(), 20)
    return found


async def respond(node: Node, request: str, value: Any, turn: str = "t1") -> None:
    command = TurnRespond(type="turn.respond", session="s1", turn=turn, request=request, value=value)
    await node.backend.respond("alice", "alice", command)


async def cancel(node: Node, turn: str = "t1") -> None:
    await node.backend.cancel_turn("alice", "alice", TurnCancel(type="turn.cancel", session="s1", turn=turn))


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls"])
@pytest.mark.parametrize("text", ["Fine.", ""], ids=["some text", "empty"])
async def test_a_reason_to_finish_is_no_error_also_of_an_empty_answer(
    server: StoreServer, log: RedisSessionLog, reason: Any, text: str
) -> None:
    script = answer(text, reason, USED) if text else [[USED, Finish(reason)]]
    provider = Scripted(script)
    async with running(server, model_of(provider, price=RATES)) as node:
        await begin(node)
        told = await end_of(log)
    assert (told["type"], told["finish_reason"]) == ("turn.done", reason)
    assert [part["bytes"] for part in told["parts"]] == ([len(text)] if text else [])
    assert told["usage"] == {"input_tokens": 1_000, "output_tokens": 500, "estimated": False}
    assert told["cost"] == {"amount": "0.002", "currency": "USD"}
    assert len(provider.requests) == 1


async def test_events_that_end_without_proof_are_a_truncated_answer_whose_part_is_kept(
    server: StoreServer, log: RedisSessionLog
) -> None:
    provider = Scripted([[Content(0, "text", "half a")]])
    async with running(server, model_of(provider, price=RATES)) as node:
        await begin(node)
        told = await end_of(log)
        (stored,) = (await log.read_view(SESSION, 5)).turns
    assert (told["error"]["code"], told["partial"]) == ("upstream_truncated", True)
    assert orjson.loads(stored.parts or b"")["parts"][0]["text"] == "half a"
    assert told["usage"] | {"input_tokens": 0} == {
        "input_tokens": 0,
        "output_tokens": tokens_likely("half a"),
        "estimated": True,
    }
    assert Decimal(told["cost"]["amount"]) > 0
    assert len(provider.requests) == 1


async def test_when_to_come_back_is_told_to_whoever_has_to(server: StoreServer, log: RedisSessionLog) -> None:
    provider = Scripted([Failure("upstream_busy", retry_after_ms=60_000)])
    async with running(server, model_of(provider)) as node:
        await begin(node)
        error = (await end_of(log))["error"]
    assert (error["code"], error["retry"], error["retry_after_ms"]) == ("upstream_unavailable", "new_turn", 60_000)
    assert len(provider.requests) == 1


async def test_a_cancelled_answer_has_its_usage_and_cost_estimated(server: StoreServer, log: RedisSessionLog) -> None:
    provider = Scripted([[UsageReport(40, 1)], [Content(0, "text", "some words")], forever])
    async with running(server, model_of(provider, price=RATES)) as node:
        await begin(node)
        await until(lambda: node.running and provider.requests)
        await asyncio.wait_for(_delta(log), 20)
        await cancel(node)
        told = await end_of(log)
    tokens = tokens_likely("some words")
    assert (told["finish_reason"], told["upstream_stopped"]) == ("cancelled", True)
    assert told["usage"] == {"input_tokens": 40, "output_tokens": tokens, "estimated": True}
    assert Decimal(told["cost"]["amount"]) * 1_000_000 == 40 + 2 * tokens
    assert provider.left == 1


async def _delta(log: RedisSessionLog) -> None:
    while not any(logged.entry.turn and not isinstance(logged.entry, Event) for logged in await _entries(log)):
        pass


async def _entries(log: RedisSessionLog) -> Sequence[Any]:
    return (await log.read_range(SESSION, 0, 100)).entries


# --- several steps ----------------------------------------------------------------------------------------------------


async def test_a_turn_that_another_node_goes_on_with_has_the_usage_of_both_steps_and_asks_with_the_results(
    server: StoreServer, log: RedisSessionLog
) -> None:
    first, second = Scripted(calling(1, 2)), Scripted(answer("Noon.", "stop", UsageReport(2_000, 100)))
    async with running(server, model_of(first, price=RATES), name="one") as node:
        await begin(node, "t1", "What time is it?", tools=TOOLS)
        assert await parked(log) == ["part-1", "part-2"]
    async with running(server, model_of(second, price=RATES), name="two") as node:
        await respond(node, "part-1", "noon")
        await respond(node, "part-2", {"zone": "UTC"})
        told = await end_of(log)
        await begin(node, "t2", "Thanks.")
        await end_of(log, "t2")
    assert told["usage"] == {"input_tokens": 3_000, "output_tokens": 600, "estimated": False}
    assert told["cost"] == {"amount": "0.0042", "currency": "USD"}
    assert told["attempts"] == 2
    question = Message("user", (said("What time is it?"),))
    calls = ({"type": "tool_call", "text": "{}", "call": f"call-{number}", "name": "clock"} for number in (1, 2))
    looked = Message("assistant", (said("Let me look."), *calls))
    results = [
        Message("tool", (said('"noon"'),), call="call-1"),
        Message("tool", (said('{"zone":"UTC"}'),), call="call-2"),
    ]
    assert second.requests[0].messages == [question, looked, *results]
    # The next turn's context has the results too, where they belong.
    noon, thanks = Message("assistant", (said("Noon."),)), Message("user", (said("Thanks."),))
    assert second.requests[1].messages == [question, looked, *results, noon, thanks]


async def test_a_parked_turn_that_is_cancelled_keeps_what_its_step_cost(
    server: StoreServer, log: RedisSessionLog
) -> None:
    async with running(server, model_of(Scripted(calling(1, 2)), price=RATES)) as node:
        await begin(node, tools=TOOLS)
        await parked(log)
        await respond(node, "part-1", 1)
        await cancel(node)
        told = await end_of(log)
    assert told["finish_reason"] == "cancelled"
    assert told["usage"] == {"input_tokens": 1_000, "output_tokens": 500, "estimated": False}
    assert told["cost"]["amount"] == "0.002"


async def test_a_node_that_died_in_the_second_step_leaves_an_estimate_of_it(
    server: StoreServer, log: RedisSessionLog
) -> None:
    dying = Scripted(calling(1), [[Content(0, "text", "It is")], forever])
    async with running(server, model_of(dying, price=RATES), name="one") as node:
        await begin(node, tools=TOOLS)
        await parked(log)
        await respond(node, "part-1", "noon")
        await until(lambda: len(dying.requests) == 2)
        await asyncio.wait_for(_second_text(log), 20)
    make_overdue(server, key())
    async with running(server, model_of(Scripted(answer()), price=RATES), name="two"):
        told = await end_of(log)
    assert told["error"]["code"] == "node_lost"
    usage = told["usage"]
    assert usage["estimated"] is True
    assert usage["output_tokens"] == 500 + tokens_likely("It is")
    assert usage["input_tokens"] > 1_010


async def _second_text(log: RedisSessionLog) -> None:
    while not any(getattr(logged.entry, "text", "") == "It is" for logged in await _entries(log)):
        pass


async def test_the_first_byte_is_each_steps_own(server: StoreServer, log: RedisSessionLog) -> None:
    provider = Scripted(calling(1), [Failure("upstream_failed")], answer("Noon."))
    async with running(server, model_of(provider)) as node:
        await begin(node, tools=TOOLS)
        await parked(log)
        await respond(node, "part-1", "noon")
        told = await end_of(log)
    assert (told["type"], told["attempts"]) == ("turn.done", 3)


# --- what it asks -----------------------------------------------------------------------------------------------------


async def test_an_answer_that_was_cut_for_its_length_can_be_gone_on_with(
    server: StoreServer, log: RedisSessionLog
) -> None:
    provider = Scripted(answer("1 2 3", "length"), answer("4 5 6"))
    async with running(server, model_of(provider, system_prompt="Count.")) as node:
        await begin(node, "t1", "To six, please.")
        assert (await end_of(log))["finish_reason"] == "length"
        await begin(node, "t2", "Continue.")
        await end_of(log, "t2")
    assert provider.requests[1].messages == [
        Message("system", (said("Count."),)),
        Message("user", (said("To six, please."),)),
        Message("assistant", (said("1 2 3"),)),
        Message("user", (said("Continue."),)),
    ]


async def test_a_long_conversation_loses_its_oldest_turns_and_tools_take_their_part(
    server: StoreServer, log: RedisSessionLog
) -> None:
    provider = Scripted(answer("ok"))
    async with running(server, model_of(provider, context_tokens=400, output_tokens_max=100)) as node:
        for number in range(6):
            await begin(node, f"t{number}", f"{number} " + "word " * 30)
            await end_of(log, f"t{number}")
        tools = [{"name": "long", "description": "word " * 50}]
        await begin(node, "t6", "6 " + "word " * 30, tools=tools)
        await end_of(log, "t6")
    firsts = [str(request.messages[0].parts[0]["text"])[:1] for request in provider.requests]
    lengths = [len(request.messages) for request in provider.requests]
    assert firsts[0] == "0" and firsts[5] > "0"
    assert lengths[:2] == [1, 3] and max(lengths) < 11
    assert lengths[6] < lengths[5]


async def test_images_go_to_models_that_take_them_and_are_refused_for_others(
    server: StoreServer, log: RedisSessionLog
) -> None:
    seeing, blind = Scripted(answer("A cat.")), Scripted(answer("What cat?"), name="blind")
    async with running(server, model_of(seeing, images=True), model_of(blind)) as node:
        assert await refused(node, create("t0", input=[said("hm"), IMAGE], model="blind")) == "unsupported"
        await begin(node, "t1", input=[said("What is this?"), IMAGE])
        await end_of(log, "t1")
        assert await refused(node, create("t2", input=[], again="t1", model="blind")) == "unsupported"
        await begin(node, "t3", "Sure?", model="blind")
        await end_of(log, "t3")
    assert [part["type"] for part in seeing.requests[0].messages[0].parts] == ["text", "image"]
    # An earlier one is mentioned to a model that cannot see it.
    assert [part["type"] for part in blind.requests[0].messages[0].parts] == ["text", "text"]
    assert len(blind.requests) == 1


async def test_a_fallback_that_takes_no_images_is_passed_over_where_there_are_some(
    server: StoreServer, log: RedisSessionLog
) -> None:
    down = Scripted([Failure("upstream_rejected")], name="down")
    blind, seeing = Scripted(answer("What?"), name="blind"), Scripted(answer("A cat."), name="seeing")
    models = (
        model_of(down, images=True, fallback=["blind", "seeing"]),
        model_of(blind),
        model_of(seeing, images=True),
    )
    async with running(server, *models) as node:
        await begin(node, "t1", input=[IMAGE])
        assert (await end_of(log))["model"] == "seeing"
        await begin(node, "t2", "and without?")
        assert (await end_of(log, "t2"))["model"] == "blind"
    assert (len(blind.requests), len(seeing.requests)) == (1, 1)


async def test_each_step_costs_what_the_model_that_answered_it_costs(server: StoreServer, log: RedisSessionLog) -> None:
    down, dear = (
        Scripted([Failure("upstream_rejected")], name="down"),
        Scripted(answer("ok", "stop", USED), name="dear"),
    )
    models = (
        model_of(down, price=RATES, fallback=["dear"]),
        model_of(dear, price=replace(RATES, input=Decimal(100))),
    )
    async with running(server, *models) as node:
        await begin(node)
        told = await end_of(log)
    assert (told["model"], told["cost"]["amount"]) == ("dear", "0.101")


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budget", [Budget(tokens=300), Budget(usd=Decimal("0.0006")), Budget(tokens=300, usd=Decimal(9))]
)
async def test_a_spent_budget_ends_an_answer_in_its_middle_and_keeps_it(
    server: StoreServer, log: RedisSessionLog, budget: Budget
) -> None:
    endless: list[Step] = [step for _ in range(500) for step in ([Content(0, "text", "word " * 4)], pause)]
    provider = Scripted(endless)
    async with running(server, model_of(provider, price=RATES, budget=budget)) as node:
        await begin(node)
        told = await end_of(log)
        (stored,) = (await log.read_view(SESSION, 5)).turns
    assert (told["type"], told["finish_reason"]) == ("turn.done", "budget")
    assert 280 < told["usage"]["output_tokens"] < 340 and told["usage"]["estimated"]
    text = orjson.loads(stored.parts or b"")["parts"][0]["text"]
    assert told["parts"][0]["bytes"] == len(text)
    assert (len(provider.requests), provider.left) == (1, 1)


async def pause() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "piece by piece"])
async def test_an_answer_that_ends_where_its_budget_does_has_ended_by_itself(
    server: StoreServer, log: RedisSessionLog, together: bool
) -> None:
    whole: list[ProviderEvent] = [Content(0, "text", "word " * 100), USED, Finish("stop")]
    provider = Scripted([whole] if together else [whole[:1], whole[1:]])
    async with running(server, model_of(provider, budget=Budget(tokens=1_400))) as node:
        await begin(node)
        told = await end_of(log)
    assert told["finish_reason"] == "stop"
    assert told["usage"] == {"input_tokens": 1_000, "output_tokens": 500, "estimated": False}


async def test_a_turn_whose_step_spent_its_budget_asks_for_no_tool(server: StoreServer, log: RedisSessionLog) -> None:
    provider = Scripted(calling(1))
    async with running(server, model_of(provider, budget=Budget(tokens=1_400))) as node:
        await begin(node, tools=TOOLS)
        told = await end_of(log)
    assert told["finish_reason"] == "budget"
    assert [part["kind"] for part in told["parts"]] == ["text", "tool_call"]


async def test_a_budget_that_was_lowered_while_a_turn_waited_ends_it_before_its_next_request(
    server: StoreServer, log: RedisSessionLog
) -> None:
    provider = Scripted(calling(1), answer())
    async with running(server, model_of(provider), name="one") as node:
        await begin(node, tools=TOOLS)
        await parked(log)
    async with running(server, model_of(provider, budget=Budget(tokens=1_400)), name="two") as node:
        await respond(node, "part-1", "noon")
        told = await end_of(log)
    assert told["finish_reason"] == "budget"
    assert told["usage"] == {"input_tokens": 1_000, "output_tokens": 500, "estimated": False}
    assert len(provider.requests) == 1
