/** A session as its users hold it: opened while it is needed, told of in whole frames, a tree of turns to add to. */

import { describe, expect, vi } from "vitest";
import { type Snapshot, type Turnwire, TurnwireError } from "../src/index.js";
import type { SessionOpen, TurnCreate } from "../src/wire.js";
import {
  dialed,
  Frames,
  loaded,
  opened,
  opening,
  refusalOf,
  shows,
  stubbed,
  stubPage,
  test,
  watched,
} from "./support/chat.js";
import { WELCOME } from "./support/scripted_server.js";
import { Story } from "./support/story.js";

const never = (): void => {};

describe("following", () => {
  test("to leave and be back at once keeps the session open, and the last to leave closes it", async ({
    server,
    client,
  }) => {
    const { session, leave, peer, story } = await watched(server, client());
    leave();
    const [first, second] = [session.subscribe(never), session.subscribe(never)];
    first();
    first();
    story.exchange("t_1", "Why?", "So.");
    peer.say(...story.begin(), ...story.snapshot());
    await shows(session, ({ turns }) => turns.length === 1);
    const handle = session.send("And?");
    const create = await peer.expect("turn.create");
    peer.refuse(create, { code: "busy", retry: "same_frame" });
    await handle.done;
    second();
    expect(await peer.expect("session.close")).toEqual({ type: "session.close", session: "s_1" });
  });

  test("the same listener twice is two subscriptions", async ({ server, client }) => {
    const { session, leave, peer, story } = await watched(server, client());
    const listener = vi.fn();
    const [first, second] = [session.subscribe(listener), session.subscribe(listener)];
    leave();
    first();
    story.exchange("t_1", "Why?", "So.");
    peer.say(...story.snapshot());
    await shows(session, ({ turns }) => turns.length === 1);
    expect(listener).toHaveBeenCalledOnce();
    second();
    await peer.expect("session.close");
  });

  test("an unended turn of one's own keeps the session open without a listener", async ({ server, client }) => {
    const { session, leave, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    leave();
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "So."), story.done(turn));
    expect((await handle.done).turn.text).toBe("So.");
    await peer.expect("session.close");
  });

  test("whoever comes back to a closed session is told what happened meanwhile", async ({ server, client }) => {
    const { session, leave, peer, story } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    leave();
    await peer.expect("session.close");
    story.exchange("t_2", "Two?", "Two.", "t_1");
    session.subscribe(never);
    expect((await story.answerOpen(peer)).after).toEqual({ gen: "g_1", seq: 4, turn: "t_1" });
    const { turns } = await shows(session, ({ turns }) => turns.length === 2);
    expect(turns.map(({ text }) => text)).toEqual(["One.", "Two."]);
  });

  test("frames of a session that nobody follows any more change nothing", async ({ server, client }) => {
    const frames = new Frames();
    const { session, leave, peer, story } = await watched(server, client({ onFrame: frames.onFrame }));
    leave();
    await peer.expect("session.close");
    const before = session.getSnapshot();
    peer.say(...story.begin(), ...story.exchange("t_1", "Why?", "So."));
    await frames.came("turn.done");
    expect(session.getSnapshot()).toBe(before);
  });

  test("frames of a session that was never asked for are dropped", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    const other = new Story("s_other");
    peer.say(...other.begin(), ...other.exchange("t_1", "Why?", "So."));
    story.exchange("t_2", "And?", "So.");
    peer.say(...story.snapshot());
    await shows(session, ({ turns }) => turns.length === 1);
    expect(turnwire.session("s_other").getSnapshot().turns).toEqual([]);
  });

  test("what was seen of the last 20 sessions is kept for the next look, and no more", async ({ server, client }) => {
    const turnwire = client();
    const { peer, session: watching } = await watched(server, turnwire, new Story("s_watched"));
    const sessions = [];
    for (let number = 0; number < 22; number++) {
      const session = turnwire.session(`s_${number}`);
      const leave = session.subscribe(never);
      await new Story(session.id).answerOpen(peer);
      leave();
      await peer.expect("session.close");
      sessions.push(session);
    }
    // One that is touched again counts as new.
    const kept = sessions.map((session) => turnwire.session(session.id) === session);
    expect(kept).toEqual([false, false, ...Array(20).fill(true)]);
    expect(turnwire.session("s_watched")).toBe(watching);
  });
});

describe("telling", () => {
  test("listeners are told once for all that comes within a frame", async ({ client }) => {
    const { session, socket, story, turn } = await streaming(client(stubbed));
    const listener = vi.fn();
    session.subscribe(listener);
    for (let count = 0; count < 100; count++) socket.say(story.delta(turn, "word "));
    expect(listener).not.toHaveBeenCalled();
    vi.advanceTimersByTime(15);
    expect(listener).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1);
    expect(listener).toHaveBeenCalledOnce();
    expect(session.getSnapshot().turns[0]?.text).toBe("word ".repeat(100));
    vi.advanceTimersByTime(1_000);
    expect(listener).toHaveBeenCalledOnce();
  });

  test("listeners are told at most once a frame", async ({ client }) => {
    const { session, socket, story, turn } = await streaming(client(stubbed));
    const listener = vi.fn();
    session.subscribe(listener);
    for (let ms = 0; ms < 160; ms++) {
      socket.say(story.delta(turn, "word "));
      vi.advanceTimersByTime(1);
    }
    expect(listener.mock.calls.length).toBeGreaterThanOrEqual(9);
    expect(listener.mock.calls.length).toBeLessThanOrEqual(10);
    vi.advanceTimersByTime(16);
    expect(listener.mock.calls.length).toBeLessThanOrEqual(11);
  });

  test("whoever looked meanwhile is told all the same", async ({ client }) => {
    const { session, socket, story, turn } = await streaming(client(stubbed));
    const listener = vi.fn();
    session.subscribe(listener);
    socket.say(story.delta(turn, "So"));
    expect(session.getSnapshot().turns[0]?.text).toBe("So");
    vi.advanceTimersByTime(16);
    expect(listener).toHaveBeenCalledOnce();
  });

  test("a snapshot is the same object until something changed, and so is each turn in it", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    const before = session.getSnapshot();
    expect(session.getSnapshot()).toBe(before);
    const handle = session.send("Two?");
    const after = session.getSnapshot();
    expect(after).not.toBe(before);
    expect(before.turns).toHaveLength(1);
    expect(after.turns).toMatchObject([{ id: "t_1" }, { id: handle.id, parent: "t_1", status: "sending" }]);
    expect(after.turns[0]).toBe(before.turns[0]);
    await story.take(peer);
    peer.say(story.started(handle.id), story.delta(handle.id, "T"));
    const running = await shows(session, ({ turns }) => turns[1]?.text === "T");
    expect(running.turns[0]).toBe(before.turns[0]);
    peer.say(story.delta(handle.id, "wo."), story.done(handle.id));
    await handle.done;
    expect(running.turns[1]?.text).toBe("T");
  });

  test("nobody is told where nothing changed", async ({ server, client }) => {
    const frames = new Frames();
    const { session, peer, story } = await watched(
      server,
      client({ onFrame: frames.onFrame }),
      storyOf(["t_1", "One?", "One."]),
    );
    await shows(session, ({ connection }) => connection === "live");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    vi.runAllTimers();
    const listener = vi.fn();
    session.subscribe(listener);
    peer.say(...story.exchange("t_1", "One?", "One.").map((frame) => ({ ...frame, seq: frame.seq - 4 })));
    await frames.came("turn.done");
    vi.advanceTimersByTime(100);
    expect(listener).not.toHaveBeenCalled();
  });

  test("a page that is seen tells with its frames, and one that is not by the clock", async ({ client }) => {
    const page = stubPage("visible");
    const { session, socket, story, turn } = await streaming(client(stubbed));
    page.draw();
    const listener = vi.fn();
    session.subscribe(listener);
    socket.say(story.delta(turn, "So"));
    socket.say(story.delta(turn, " it"));
    vi.advanceTimersByTime(100);
    expect(listener).not.toHaveBeenCalled();
    page.draw();
    expect(listener).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(1_000);
    page.draw();
    expect(listener).toHaveBeenCalledTimes(1);

    page.document.visibilityState = "hidden";
    socket.say(story.delta(turn, " goes."));
    vi.advanceTimersByTime(16);
    expect(listener).toHaveBeenCalledTimes(2);
  });

  test("a page that is hidden before its frame came tells all the same, once", async ({ client }) => {
    const page = stubPage("visible");
    const { session, socket, story, turn } = await streaming(client(stubbed));
    page.draw();
    const listener = vi.fn();
    session.subscribe(listener);
    socket.say(story.delta(turn, "So."));
    page.document.visibilityState = "hidden";
    vi.advanceTimersByTime(1_000);
    expect(listener).toHaveBeenCalledTimes(1);
    page.document.visibilityState = "visible";
    page.draw();
    expect(listener).toHaveBeenCalledTimes(1);
  });

  test("the connection and its problem are in the snapshot", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    expect(session.getSnapshot()).toEqual({
      turns: [],
      hasEarlier: false,
      busy: false,
      loaded: false,
      connection: "idle",
      deleted: false,
    });
    const { peer } = await watched(server, turnwire);
    await shows(session, ({ connection }) => connection === "live");
    vi.mocked(Math.random).mockReturnValue(0.999);
    peer.say({ type: "error", error: { code: "internal", message: "The server stumbled.", retry: "reconnect" } });
    peer.close(4500);
    expect(await shows(session, ({ connection }) => connection === "offline")).toMatchObject({
      loaded: true,
      problem: "The server stumbled.",
    });
  });

  test("what a page was rendered with is shown until the server has told", async ({ server, client }) => {
    const initial: Snapshot = { turns: [], hasEarlier: true, busy: false, loaded: true, connection: "idle", deleted: false };
    const turnwire = client();
    const session = turnwire.session("s_1", initial);
    expect(session.getSnapshot()).toBe(initial);
    await watched(server, turnwire, storyOf(["t_1", "One?", "One."]));
    const { turns } = await shows(session, ({ turns }) => turns.length > 0);
    expect(turns).toMatchObject([{ text: "One." }]);
  });

  test("the title and the end of a session are told", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    expect(session.getSnapshot()).not.toHaveProperty("title");
    const handle = session.send("Why?");
    await story.take(peer);
    peer.say(story.updated("Sky"));
    expect((await shows(session, ({ title }) => title !== undefined)).title).toBe("Sky");
    peer.say(story.deleted());
    expect(await handle.done).toMatchObject({ ok: false, error: { code: "not_found", message: "The chat was deleted." } });
    expect((await shows(session, ({ deleted }) => deleted)).busy).toBe(false);
  });
});

describe("a deleted session", () => {
  test("what is sent to it is for its sender to decide, once the server has refused it", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    peer.say(story.deleted());
    await shows(session, ({ deleted }) => deleted);
    const handle = session.send("Two?");
    peer.refuse(await peer.expect("turn.create"), { code: "not_found", message: "There is no such chat." });
    expect(await handle.done).toMatchObject({ ok: false, error: { code: "not_found" }, turn: { unsent: true } });
    session.discard(handle.id);
    expect(session.getSnapshot()).toMatchObject({ deleted: true, busy: false, turns: [{ id: "t_1" }] });
  });

  test("a new one of its name is shown", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    peer.say(story.deleted());
    await shows(session, ({ deleted }) => deleted);
    peer.cut();
    const other = new Story("s_1", "g_2");
    other.exchange("t_2", "New?", "New.");
    await opened(server, other);
    expect((await shows(session, ({ deleted }) => !deleted)).turns).toMatchObject([{ id: "t_2", text: "New." }]);
  });

  test("what is said of it afterwards changes nothing, also after a reconnect", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    peer.say(story.deleted());
    const before = await shows(session, ({ deleted, connection }) => deleted && connection === "live");
    expect(before).toMatchObject({ busy: false, turns: [{ text: "One." }] });
    peer.cut();
    const next = await opened(server, new Story("s_1"));
    await shows(session, ({ connection }) => connection === "live");
    expect(session.getSnapshot()).toMatchObject({ deleted: true, turns: [{ text: "One." }] });
    expect(next.received).toHaveLength(2);
  });
});

describe("opening", () => {
  test("an open that was refused is shown, and made again when the server said", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(never);
    const peer = await server.accepted();
    await peer.greet();
    const open = await peer.expect("session.open");
    peer.refuse(open, { code: "overloaded", message: "Too many chats are open.", retry: "same_frame", retry_after_ms: 20 });
    await shows(session, ({ problem }) => problem === "Too many chats are open.");
    await new Story("s_1").answerOpen(peer);
    expect(await shows(session, loaded)).not.toHaveProperty("problem");
  });

  test("without a time it is made again after a second", async ({ client }) => {
    vi.useFakeTimers();
    const { socket, session, open } = await opening(client(stubbed));
    const told = vi.fn();
    session.subscribe(told);
    socket.say(refusalOf(open, { retry: "same_frame" }));
    vi.advanceTimersByTime(999);
    expect(told).toHaveBeenCalled();
    expect(session.getSnapshot().problem).toBe("Not now.");
    expect(socket.sent).toHaveLength(2);
    vi.advanceTimersByTime(1);
    expect(socket.sent).toHaveLength(3);
    expect(socket.sent[2]).toMatchObject({ type: "session.open", session: "s_1" });
    expect(socket.sent[2]?.id).not.toBe(open.id);
  });

  test("one that nobody needs any more is not made again", async ({ client }) => {
    vi.useFakeTimers();
    const { socket, leave, open } = await opening(client(stubbed));
    socket.say(refusalOf(open, { retry: "same_frame", retry_after_ms: 500 }));
    leave();
    vi.advanceTimersByTime(5_000);
    expect(socket.sent.map(({ type }) => type)).toEqual(["hello", "session.open", "session.close"]);
  });

  test("nor one that was answered meanwhile, on another connection", async ({ client }) => {
    vi.useFakeTimers();
    const { socket, session, open } = await opening(client(stubbed));
    socket.say(refusalOf(open, { retry: "same_frame", retry_after_ms: 5_000 }));
    const redialed = dialed();
    socket.lose();
    vi.advanceTimersByTime(0);
    const next = await redialed;
    next.open();
    next.say(WELCOME, ...new Story("s_1").opened(next.sent[1] as SessionOpen));
    expect(session.getSnapshot()).toMatchObject({ loaded: true });
    vi.advanceTimersByTime(5_000);
    expect(next.sent).toHaveLength(2);
  });

  test("one that is refused for good stays so until it is opened anew", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(never);
    const peer = await server.accepted();
    await peer.greet();
    peer.refuse(await peer.expect("session.open"), { code: "forbidden", message: "This chat is not yours." });
    await shows(session, ({ problem }) => problem === "This chat is not yours.");
    peer.cut();
    const next = await opened(server, new Story("s_1"));
    await shows(session, ({ loaded, problem }) => loaded && problem === undefined);
    expect(next.received).toHaveLength(2);
  });

  test("one that is refused by a server that stops is made on another connection", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(never);
    const peer = await server.accepted();
    await peer.greet();
    peer.refuse(await peer.expect("session.open"), { code: "draining", retry: "reconnect" });
    await opened(server, new Story("s_1"));
    await shows(session, loaded);
  });

  test("an answer to nothing that was asked is passed over", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    peer.say(
      { type: "ack", reply_to: "c_unknown", session: "s_1" },
      { type: "error", reply_to: "o99", error: { code: "internal", message: "?", retry: "none" } },
    );
    peer.say({ type: "error", reply_to: "o99", session: "s_1", error: { code: "internal", message: "?", retry: "none" } });
    story.exchange("t_1", "One?", "One.");
    peer.say(...story.snapshot());
    expect(await shows(session, ({ turns }) => turns.length === 1)).not.toHaveProperty("problem");
  });

  test("a malformed frame is reported once, and the session is opened again", async ({ server, client }) => {
    const onFault = vi.fn();
    const { session, peer, story } = await watched(server, client({ onFault }), storyOf(["t_1", "One?", "One."]));
    peer.sayRaw(
      JSON.stringify({ type: "turn.delta", session: "s_1", turn: "t_1", seq: "five", part: 0, kind: "text", text: "!" }),
    );
    story.exchange("t_2", "Two?", "Two.", "t_1");
    expect(await story.answerOpen(peer)).not.toHaveProperty("after");
    await shows(session, ({ turns }) => turns.length === 2);
    expect(onFault).toHaveBeenCalledOnce();
    expect(onFault).toHaveBeenCalledWith(expect.stringMatching(/turn\.delta/));
  });

  test("frames of a type that this client does not know are counted and skipped", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn));
    peer.sayRaw(JSON.stringify({ type: "turn.dreamt", session: "s_1", turn, seq: ++story.seq, at: 0 }));
    peer.sayRaw(JSON.stringify({ type: "weather", sunny: true }));
    peer.say(story.delta(turn, "So."), story.done(turn));
    expect((await handle.done).turn).toMatchObject({ text: "So.", proved: true });
  });
});

describe("writing", () => {
  test("a turn that is sent before the session is loaded names no parent", async ({ server, client }) => {
    const turnwire = client();
    turnwire.session("s_1").send("Why?");
    const peer = await server.accepted();
    await peer.greet();
    const story = storyOf(["t_1", "One?", "One."]);
    await story.answerOpen(peer);
    expect(await peer.expect("turn.create")).not.toHaveProperty("parent");
    const { turns } = await shows(turnwire.session("s_1"), loaded);
    expect(turns.map(({ parent }) => parent)).toEqual([null, "t_1"]);
  });

  test("afterwards it follows the last turn that is seen, whatever other devices have sent", async ({ server, client }) => {
    const { session, peer } = await watched(
      server,
      client(),
      storyOf(["t_1", "One?", "One."], ["t_2", "Two?", "Two.", "t_1"], ["t_3", "Other?", "Other."]),
    );
    expect(session.getSnapshot().turns.map(({ id }) => id)).toEqual(["t_3"]);
    session.showBranch("t_1");
    expect(session.getSnapshot().turns.map(({ id }) => id)).toEqual(["t_1", "t_2"]);
    session.send("Three?");
    expect((await peer.expect("turn.create")).parent).toBe("t_2");
    session.send("Root?", { parent: null });
    expect((await peer.expect("turn.create")).parent).toBeNull();
    expect(session.getSnapshot().turns[0]?.siblings).toHaveLength(3);
  });

  test("a turn does not follow one that the server does not have", async ({ server, client }) => {
    const { session, peer } = await watched(server, client(), storyOf(["t_1", "One?", "One."]));
    const refused = session.send("Two?");
    peer.refuse(await peer.expect("turn.create"), { code: "quota_exceeded" });
    await refused.done;
    session.send("Three?");
    expect((await peer.expect("turn.create")).parent).toBe("t_1");
  });

  test("edit asks otherwise at the same place, and regenerate answers anew", async ({ server, client }) => {
    const { session, peer, story } = await watched(
      server,
      client(),
      storyOf(["t_1", "One?", "One."], ["t_2", "Two?", "Two.", "t_1"]),
    );
    const edited = session.edit("t_2", "Too?");
    expect(session.getSnapshot().turns).toMatchObject([{ id: "t_1" }, { id: edited.id, siblings: ["t_2", edited.id] }]);
    expect(await story.take(peer)).toMatchObject({ parent: "t_1", input: [{ type: "text", text: "Too?" }] });
    peer.say(story.started(edited.id), story.done(edited.id));
    await edited.done;

    session.edit("t_1", "Won?");
    expect((await peer.expect("turn.create")).parent).toBeNull();

    const again = session.regenerate("t_2", { model: "demo/slow", parent: "t_9" });
    const create = await peer.expect("turn.create");
    expect(create).toMatchObject({ again: "t_2", model: "demo/slow" });
    expect(create).not.toHaveProperty("parent");
    expect(create).not.toHaveProperty("input");
    expect(session.getSnapshot().turns.at(-1)).toMatchObject({
      id: again.id,
      again: "t_2",
      parent: "t_1",
      input: [{ text: "Two?" }],
      siblings: ["t_2", edited.id, again.id],
    });
  });

  test("every option has its name on the wire", async ({ server, client }) => {
    const { session, peer } = await watched(server, client());
    const image = { type: "image", media_type: "image/png", data: "AAAA" } as const;
    session.send([{ type: "text", text: "What is it?" }, image], {
      model: "demo/slow",
      params: { maxTokens: 5 },
      tools: [{ name: "look", parameters: { minItems: 1 } }],
      responseFormat: { jsonSchema: true },
      onBusy: "interrupt",
      onDisconnect: "cancel",
      cancelAfterMs: 5_000,
    });
    expect(await peer.expect("turn.create")).toMatchObject({
      input: [{ type: "text", text: "What is it?" }, image],
      model: "demo/slow",
      params: { maxTokens: 5 },
      tools: [{ name: "look", parameters: { minItems: 1 } }],
      response_format: { jsonSchema: true },
      on_busy: "interrupt",
      on_disconnect: "cancel",
      cancel_after_ms: 5_000,
    });
  });

  test("what names a turn that is not here throws TurnwireError", ({ client }) => {
    const session = client().session("s_1");
    for (const act of [
      () => session.edit("t_9", "?"),
      () => session.regenerate("t_9"),
      () => session.retrySend("t_9"),
      () => session.discard("t_9"),
    ]) {
      expect(act).toThrow(TurnwireError);
      expect(act).toThrow("There is no such turn in this chat.");
    }
    session.showBranch("t_9");
    expect(session.getSnapshot().turns).toEqual([]);
  });

  test("what another device sends is seen, and its turns can be stopped", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const create = { type: "turn.create", session: "s_1", turn: "t_theirs", input: [{ type: "text", text: "Hi" }] } as const;
    const accepted = story.accepted({ ...create, input: [...create.input] });
    peer.say(...story.begin(), accepted, story.started("t_theirs"), story.delta("t_theirs", "Hel"));
    expect((await shows(session, ({ turns }) => turns[0]?.text === "Hel")).busy).toBe(true);
    void session.stop();
    const cancel = await peer.expect("turn.cancel");
    expect(cancel).toMatchObject({ session: "s_1", turn: "t_theirs" });
    peer.say({ type: "ack", reply_to: cancel.id as string, session: "s_1", turn: "t_theirs", result: "cancelling" });
    peer.say(story.cancelling("t_theirs"), story.done("t_theirs", "cancelled"));
    await shows(session, ({ turns }) => turns[0]?.status === "cancelled");
  });
});

describe("the state of a session without a network", () => {
  test("a socket of another class is given the address and the subprotocol", async ({ client }) => {
    const session = client(stubbed, "wss://chat.example.com/v1/ws").session("s_1");
    session.subscribe(never);
    const socket = await dialed();
    expect([socket.url, socket.protocols]).toEqual(["wss://chat.example.com/v1/ws", ["turnwire.v1.json"]]);
    socket.open();
    socket.say(WELCOME);
    expect(session.getSnapshot().connection).toBe("live");
    expect(socket.sent.map(({ type }) => type)).toEqual(["hello", "session.open"]);
  });
});

/** A session of a stub socket with a turn that is being answered, and nothing left to be told. */
async function streaming(turnwire: Turnwire) {
  vi.useFakeTimers();
  const { session, socket, open } = await opening(turnwire);
  const story = new Story("s_1");
  socket.say(...story.opened(open));
  const { id: turn } = session.send("Why?");
  const accepted = story.accepted(socket.sent[2] as TurnCreate);
  socket.say(...story.begin(), story.ack(socket.sent[2] as TurnCreate), accepted, story.started(turn));
  vi.advanceTimersByTime(16);
  return { session, socket, story, turn };
}

type Exchange = [turn: string, question: string, answer: string, parent?: string];

function storyOf(...exchanges: Exchange[]): Story {
  const story = new Story("s_1");
  for (const [turn, question, answer, parent] of exchanges) story.exchange(turn, question, answer, parent ?? null);
  return story;
}
