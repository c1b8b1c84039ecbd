/** A turn as its sender holds it: read while it comes, awaited, cancelled. */

import { describe, expect } from "vitest";
import { loaded, opened, read, readAll, shows, test, watched } from "./support/chat.js";
import { Story, settled } from "./support/story.js";

describe("reading", () => {
  test("the text comes as it is written, of text parts only", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const deltas = handle[Symbol.asyncIterator]();
    const first = deltas.next();
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Hm, the sky …", 0, "reasoning"), story.delta(turn, "Because ", 1));
    expect(await first).toEqual({ done: false, value: { part: 1, text: "Because " } });
    const second = deltas.next();
    peer.say(story.delta(turn, "it scatters.", 1));
    expect((await second).value).toEqual({ part: 1, text: "it scatters." });
    const third = deltas.next();
    peer.say(story.delta(turn, " And more.", 2));
    expect((await third).value).toEqual({ part: 2, text: " And more." });
    const last = deltas.next();
    peer.say(story.done(turn));
    expect(await last).toEqual({ done: true, value: undefined });
  });

  test("whoever begins late, and whoever reads a second time, gets all from the first word on", async ({
    server,
    client,
  }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const early = read(handle);
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Because "));
    await shows(session, ({ turns }) => turns[0]?.text === "Because ");
    const [late, later] = [read(handle), readAll(handle)];
    peer.say(story.delta(turn, "it "), story.delta(turn, "scatters."), story.done(turn));
    expect(await Promise.all([early, late])).toEqual(["Because it scatters.", "Because it scatters."]);
    expect((await later).map(({ text }) => text).join("")).toBe("Because it scatters.");
    expect(await readAll(handle)).toEqual([{ part: 0, text: "Because it scatters." }]);
  });

  test("every character comes once, whatever is cut", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Count.");
    const readers = [read(handle), read(handle)];
    const { turn } = await story.take(peer);
    peer.say(story.started(turn));
    let here = peer;
    let text = "";
    for (let cut = 0; cut < 8; cut++) {
      const [seen, unseen] = [`${cut}😀 `, `${cut}é `];
      here.say(story.delta(turn, seen));
      text += seen;
      await shows(session, ({ turns }) => turns[0]?.text === text);
      here.cut();
      story.delta(turn, unseen);
      text += unseen;
      here = await opened(server, story);
      // What was said before the cut may come again.
      here.say(
        ...story.opened({ type: "session.open", id: "o", session: "s_1", after: { gen: "g_1", seq: 1, turn } }).slice(1),
      );
    }
    here.say(story.done(turn));
    expect(await Promise.all(readers)).toEqual([text, text]);
    expect((await handle.done).turn).toMatchObject({ text, proved: true });
  });

  test("another history begins anew, with a reset, and one that only goes further does not", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const all = readAll(handle);
    const { turn, input = [] } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Because it "));
    await shows(session, ({ turns }) => turns[0]?.text === "Because it ");
    story.delta(turn, "scatters");
    peer.say(...story.snapshot());
    await shows(session, ({ turns }) => turns[0]?.text === "Because it scatters");

    const other = new Story("s_1", "g_2");
    other.accepted({ type: "turn.create", session: "s_1", turn, input });
    other.begin();
    other.started(turn);
    other.delta(turn, "Well, ");
    peer.say(...other.snapshot());
    await shows(session, ({ turns }) => turns[0]?.text === "Well, ");
    // A message that the new history has is not sent again.
    peer.say(other.delta(turn, "light."), other.done(turn));
    expect(await all).toEqual([
      { part: 0, text: "Because it " },
      { part: 0, text: "scatters" },
      { part: 0, text: "", reset: true },
      { part: 0, text: "Well, " },
      { part: 0, text: "light." },
    ]);
    expect((await handle.done).turn.text).toBe("Well, light.");
  });

  test("a reader may stop reading", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Because "));
    for await (const { text } of handle) {
      expect(text).toBe("Because ");
      break;
    }
    peer.say(story.delta(turn, "so."), story.done(turn));
    expect((await handle.done).turn.text).toBe("Because so.");
  });

  test("reading ends with an error, with a refusal, and where the turn is forgotten", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const failed = session.send("one");
    const failing = read(failed);
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Be"), story.error(turn));
    expect(await failing).toBe("Be");

    const refused = session.send("two");
    const refusing = readAll(refused);
    peer.refuse(await peer.expect("turn.create"), { code: "busy", retry: "same_frame" });
    expect(await refusing).toEqual([]);

    const forgotten = session.send("three");
    const forgetting = readAll(forgotten);
    session.discard(forgotten.id);
    expect(await forgetting).toEqual([]);
    expect(await readAll(forgotten)).toEqual([]);
    expect(await forgotten.done).toMatchObject({ ok: false, turn: { id: forgotten.id } });
  });
});

describe("done", () => {
  test("of an answer it has the whole turn", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.retrying(turn));
    peer.say(story.started(turn), story.delta(turn, "So."), {
      ...story.done(turn),
      cost: { amount: "0.001", currency: "USD" },
    });
    expect(await handle.done).toMatchObject({
      ok: true,
      turn: {
        id: handle.id,
        status: "done",
        finishReason: "stop",
        usage: { inputTokens: 3, outputTokens: 5, estimated: false },
        cost: { amount: "0.001", currency: "USD" },
        firstTokenMs: 12,
        durationMs: 340,
        proved: true,
      },
    });
  });

  test("of a failure it has the error and the partial answer", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Be"), story.error(turn));
    expect(await handle.done).toMatchObject({
      ok: false,
      error: { code: "upstream_timeout", retry: "new_turn", message: "The model did not answer in time." },
      turn: { status: "error", text: "Be" },
    });
  });

  test("a turn that the server has lost has ended as store_lost", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Be"));
    await shows(session, ({ turns }) => turns[0]?.text === "Be");
    const other = new Story("s_1", "g_2");
    other.exchange("t_0", "Hello?", "Hello.");
    peer.say(...other.snapshot());
    expect(await handle.done).toMatchObject({
      ok: false,
      error: { code: "store_lost", retry: "new_turn" },
      turn: { text: "Be" },
    });
  });

  test("it comes also of a turn that the snapshot shows as ended", async ({ server, client }) => {
    const turnwire = client();
    const handle = turnwire.session("s_1").send("Why?");
    const peer = await server.accepted();
    await peer.greet();
    const open = await peer.expect("session.open");
    const create = await peer.expect("turn.create");
    const story = new Story("s_1");
    story.accepted(create);
    story.begin();
    story.started(handle.id);
    story.delta(handle.id, "So.");
    story.done(handle.id);
    peer.say(...story.opened(open), story.ack(create));
    expect(await handle.done).toMatchObject({ ok: true, turn: { text: "So.", proved: true } });
    await shows(turnwire.session("s_1"), loaded);
  });

  test("it does not reject when the client is closed, and reading ends", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    const [running, waiting] = [session.send("one"), session.send("two")];
    const readers = [readAll(running), readAll(waiting)];
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Be"));
    await shows(session, ({ turns }) => turns[0]?.text === "Be");
    turnwire.close();
    expect(await running.done).toMatchObject({ ok: false, turn: { text: "Be" } });
    expect(await waiting.done).toMatchObject({ ok: false, turn: { id: waiting.id } });
    expect(await Promise.all(readers)).toEqual([[{ part: 0, text: "Be" }], []]);
  });
});

describe("cancelling", () => {
  test("cancel resolves when the server has stored it, and the partial answer stays", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Be"));
    await shows(session, ({ turns }) => turns[0]?.text === "Be");
    const cancelled = handle.cancel();
    const cancel = await peer.expect("turn.cancel");
    expect(cancel).toEqual({ type: "turn.cancel", id: expect.any(String), session: "s_1", turn });
    peer.say(settled(cancel, { result: "cancelling" }), story.cancelling(turn));
    await cancelled;
    expect((await shows(session, ({ turns }) => turns[0]?.status === "stopping")).busy).toBe(true);
    peer.say(story.done(turn, "cancelled"));
    expect(await handle.done).toMatchObject({
      ok: true,
      turn: { status: "cancelled", text: "Be", finishReason: "cancelled" },
    });
  });
});
