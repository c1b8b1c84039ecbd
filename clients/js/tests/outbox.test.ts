/** What waits until the server has it: across cuts and reloads, once, in order, by its own author and nobody else. */

import { describe, expect, vi } from "vitest";
import { TurnwireError } from "../src/index.js";
import { Outbox } from "../src/outbox.js";
import type { SessionOpen } from "../src/wire.js";
import {
  becomes,
  dialed,
  Frames,
  loaded,
  MemoryStorage,
  opened,
  opening,
  refusalOf,
  shows,
  stubbed,
  test,
  watched,
} from "./support/chat.js";
import { WELCOME } from "./support/scripted_server.js";
import { Story, settled } from "./support/story.js";

describe("typed offline", () => {
  test("what is typed without a connection is sent once, in order, after the reconnect", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    vi.mocked(Math.random).mockReturnValue(0.999);
    peer.close(1012);
    await becomes(turnwire, ({ connection }) => connection === "offline");
    const texts = ["one", "two", "three"];
    const handles = texts.map((text) => session.send(text, { onBusy: "queue" }));
    expect(session.getSnapshot().turns.map(({ status }) => status)).toEqual(["sending", "sending", "sending"]);

    const next = await opened(server, story);
    for (const handle of handles) expect((await story.take(next, "queued")).turn).toBe(handle.id);
    await shows(session, ({ turns }) => turns.every(({ status }) => status === "queued"));
    next.cut();
    const last = await opened(server, story);
    session.send("four");
    expect(await last.expect("turn.create")).toMatchObject({ input: [{ text: "four" }] });
  });

  test("a turn whose ack was lost with the connection is sent again under its id", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const create = await peer.expect("turn.create");
    const accepted = story.accepted(create);
    story.begin();
    peer.cut();
    const next = await server.accepted();
    await next.greet();
    const open = await next.expect("session.open");
    expect(await next.expect("turn.create")).toEqual(create);
    next.say(...story.opened(open), story.ack(create, true));
    next.say(story.started(handle.id), story.delta(handle.id, "Because."), story.done(handle.id));
    expect((await handle.done).turn.text).toBe("Because.");
    expect(session.getSnapshot().turns).toHaveLength(1);
    expect(accepted.seq).toBe(1);
  });

  test("a turn that was acknowledged but not seen in the log is sent again too", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const create = await peer.expect("turn.create");
    story.accepted(create);
    peer.say(...story.begin(), story.ack(create));
    peer.cut();
    const next = await server.accepted();
    await next.greet();
    await next.expect("session.open");
    expect((await next.expect("turn.create")).turn).toBe(handle.id);
  });
});

describe("a reload", () => {
  test("what was typed offline survives it and is sent once", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    server.refusal = "503 Service Unavailable";
    const offline = client({ outbox });
    const { id } = offline.session("s_1").send("Why?");
    await server.refused();
    offline.close();
    server.refusal = undefined;

    const page = client({ outbox });
    const session = page.session("s_1");
    expect(session.getSnapshot().turns).toMatchObject([{ id, status: "sending", input: [{ text: "Why?" }] }]);
    session.subscribe(() => {});
    const story = new Story("s_1");
    const peer = await server.accepted();
    await peer.greet();
    await story.answerOpen(peer);
    expect((await story.take(peer)).turn).toBe(id);
    await shows(session, ({ turns }) => turns[0]?.status === "running");
    expect(outbox.kept.size).toBe(0);
    peer.cut();
    const next = await opened(server, story);
    session.send("And?");
    expect(await next.expect("turn.create")).toMatchObject({ input: [{ text: "And?" }] });
  });

  test("what waits in one session is sent when another is opened, and is watched until the log has told of it", async ({
    server,
    client,
  }) => {
    const outbox = new MemoryStorage();
    const first = client({ outbox, ...stubbed });
    const { id } = first.session("s_1").send("Why?");
    first.close();

    const page = client({ outbox });
    page.session("s_2").subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet();
    await new Story("s_2").answerOpen(peer);
    const create = await peer.expect("turn.create");
    expect(create).toMatchObject({ session: "s_1", turn: id });
    const story = new Story("s_1");
    story.accepted(create);
    peer.say(...story.begin(), story.ack(create));
    await story.answerOpen(peer);
    const { turns } = await shows(page.session("s_1"), loaded);
    expect(turns).toMatchObject([{ id, status: "running" }]);
    expect(outbox.kept.size).toBe(0);
  });

  test("a refused message survives it as unsent, with its reason, and can be sent again", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const before = client({ outbox });
    const { session, peer } = await watched(server, before);
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "busy", message: "An answer is running.", retry: "same_frame" });
    await handle.done;
    before.close();

    const after = client({ outbox });
    const again = after.session("s_1");
    expect(again.getSnapshot().turns).toMatchObject([
      { id: handle.id, unsent: true, status: "error", error: { code: "busy", message: "An answer is running." } },
    ]);
    const next = await watched(server, after);
    next.session.retrySend(handle.id);
    expect((await next.story.take(next.peer)).turn).toBe(handle.id);
    await shows(again, ({ turns }) => turns[0]?.status === "running");
    expect(outbox.kept.size).toBe(0);
  });

  test("a reload dials nothing by itself", async ({ client }) => {
    const outbox = new MemoryStorage();
    const { session, socket } = await opening(client({ outbox, ...stubbed }));
    session.send("one");
    session.send("two");
    socket.say(refusalOf(socket.sent.at(-1), { code: "busy" }));
    expect(session.getSnapshot().turns.map(({ status }) => status)).toEqual(["sending", "error"]);
    for (const kept of outbox.kept.values()) expect(JSON.parse(kept)).toHaveLength(2);
    const after = client({ outbox, ...stubbed });
    expect(
      after
        .session("s_1")
        .getSnapshot()
        .turns.map(({ status }) => status),
    ).toEqual(["sending", "error"]);
    expect(after.connection).toBe("idle");
  });

  test("a discarded message does not survive it", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const { session, peer } = await watched(server, client({ outbox }));
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "busy", retry: "same_frame" });
    await handle.done;
    session.discard(handle.id);
    expect(session.getSnapshot().turns).toEqual([]);
    expect(outbox.kept.size).toBe(0);
  });

  test("an old turn that was answered before is not asked again and leaves the chat", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const before = client({ outbox, ...stubbed });
    const { id } = before.session("s_1").send("Why?");
    before.close();

    const session = client({ outbox }).session("s_1");
    session.subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet();
    const story = new Story("s_1", "g_1", 50);
    story.exchange("t_new", "And?", "So.");
    await story.answerOpen(peer);
    const create = await peer.expect("turn.create");
    peer.say({ ...settled(create), seq: 3, duplicate: true });
    const { turns } = await shows(session, ({ turns, loaded }) => loaded && turns.every((turn) => turn.id !== id));
    expect(turns.map((turn) => turn.id)).toEqual(["t_new"]);
    expect(outbox.kept.size).toBe(0);
  });

  test("the ack of an old turn may come before the session is opened", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const before = client({ outbox, ...stubbed });
    before.session("s_1").send("Why?");
    before.close();

    const session = client({ outbox }).session("s_1");
    session.subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet();
    const open = await peer.expect("session.open");
    peer.say({ ...settled(await peer.expect("turn.create")), seq: 3, duplicate: true });
    const story = new Story("s_1", "g_1", 50);
    story.exchange("t_new", "And?", "So.");
    peer.say(...story.opened(open));
    await shows(session, ({ turns }) => turns.length === 1 && turns[0]?.id === "t_new");
    expect(outbox.kept.size).toBe(0);
  });
});

describe("users", () => {
  test("what another user typed is never sent, and is forgotten", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const ada = client({ outbox });
    ada.session("s_1").subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet({ user: "ada" });
    await new Story("s_1").answerOpen(peer);
    await becomes(ada, ({ user }) => user === "ada");
    ada.session("s_1").send("Secret");
    await peer.expect("turn.create");
    ada.close();
    expect(outbox.kept.size).toBe(1);

    const bob = client({ outbox });
    const session = bob.session("s_1");
    session.subscribe(() => {});
    const next = await server.accepted();
    await next.greet({ user: "bob" });
    await new Story("s_1").answerOpen(next);
    await shows(session, ({ turns, loaded }) => loaded && turns.length === 0);
    expect(outbox.kept.size).toBe(0);
    session.send("Mine");
    expect(await next.expect("turn.create")).toMatchObject({ input: [{ text: "Mine" }] });
  });

  test("what the same user typed goes out once the server has said who is there", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const before = client({ outbox });
    const { session, peer } = await watched(server, before);
    const { id } = session.send("Why?");
    await peer.expect("turn.create");
    before.close();

    client({ outbox })
      .session("s_1")
      .subscribe(() => {});
    const next = await server.accepted();
    await next.expect("hello");
    await next.expect("session.open");
    next.say(WELCOME);
    expect((await next.expect("turn.create")).turn).toBe(id);
  });

  test("what one user typed is not sent on a connection that turns out to be another's", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet({ user: "ada" });
    await new Story("s_1").answerOpen(peer);
    await shows(session, ({ loaded, connection }) => loaded && connection === "live");
    vi.mocked(Math.random).mockReturnValue(0.999);
    peer.close(1012);
    await becomes(turnwire, ({ connection }) => connection === "offline");
    const handle = session.send("Secret");
    const next = await server.accepted();
    await next.greet({ user: "bob" });
    expect(await handle.done).toMatchObject({ ok: false });
    turnwire.close();
    await next.gone;
    expect(next.received.map(({ type }) => type)).toEqual(["hello", "session.open"]);
  });
});

describe("storage", () => {
  test("each address has its own outbox", ({ client }) => {
    const outbox = new MemoryStorage();
    client({ outbox, ...stubbed }, "wss://one.example.com/v1/ws")
      .session("s_1")
      .send("Why?");
    const other = client({ outbox, ...stubbed }, "wss://two.example.com/v1/ws");
    expect(other.session("s_1").getSnapshot().turns).toEqual([]);
    expect([...outbox.kept.keys()]).toEqual(["turnwire:outbox:wss://one.example.com/v1/ws"]);
  });

  test("a full storage is reported once, and the message is sent all the same", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const onFault = vi.fn();
    const { session, peer } = await watched(server, client({ outbox, onFault }));
    outbox.setItem = () => {
      throw new DOMException("full", "QuotaExceededError");
    };
    session.send("one");
    session.send("two");
    await peer.expect("turn.create");
    await peer.expect("turn.create");
    expect(onFault.mock.calls).toEqual([[expect.stringMatching(/storage is full/i)]]);
  });

  test("a storage that holds nonsense is as good as an empty one", async ({ server, client }) => {
    for (const nonsense of ["{", "7", "null", '[{"frame":{"type":"ping"}}]', '[{"frame":{"type":"turn.create"}}]', "[{}]"]) {
      const outbox = new MemoryStorage();
      outbox.setItem(`turnwire:outbox:${server.url}`, nonsense);
      expect(client({ outbox }).session("s_1").getSnapshot().turns).toEqual([]);
    }
  });

  test("two clients of one storage leave each other's messages alone", async ({ server, client }) => {
    const outbox = new MemoryStorage();
    const kept = (): string[] =>
      (JSON.parse([...outbox.kept.values()][0] ?? "[]") as { frame: { turn: string } }[]).map(({ frame }) => frame.turn);
    const other = client({ outbox, ...stubbed });
    const { session, peer, story } = await watched(server, client({ outbox }));
    const theirs = other.session("s_2").send("theirs");
    const ours = session.send("ours");
    expect(kept()).toEqual([theirs.id, ours.id]);
    await story.take(peer);
    await shows(session, ({ turns }) => turns[0]?.status === "running");
    expect(kept()).toEqual([theirs.id]);
  });

  test("the page's sessionStorage is the default, and a page may be forbidden to look at it", async ({ client }) => {
    const sessionStorage = new MemoryStorage();
    vi.stubGlobal("sessionStorage", sessionStorage);
    client(stubbed).session("s_1").send("Why?");
    client({ outbox: false, ...stubbed })
      .session("s_2")
      .send("Not kept.");
    expect([...sessionStorage.kept.values()].join()).toMatch(/Why\?/);
    expect([...sessionStorage.kept.values()].join()).not.toMatch(/Not kept/);
    vi.unstubAllGlobals();
    const own = Object.getOwnPropertyDescriptor(globalThis, "sessionStorage");
    Object.defineProperty(globalThis, "sessionStorage", {
      configurable: true,
      get() {
        throw new DOMException("forbidden", "SecurityError");
      },
    });
    const forbidden = client(stubbed).session("s_1");
    forbidden.send("Why?");
    expect(forbidden.getSnapshot().turns).toHaveLength(1);
    if (own) Object.defineProperty(globalThis, "sessionStorage", own);
    else Reflect.deleteProperty(globalThis, "sessionStorage");
  });
});

describe("refused", () => {
  test("busy makes it unsent; retrySend sends it again under its id", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), {
      code: "busy",
      message: "An answer is running.",
      retry: "same_frame",
      retry_after_ms: 10,
    });
    expect(await handle.done).toMatchObject({ ok: false, error: { code: "busy", retry: "same_frame", retryAfterMs: 10 } });
    expect(session.getSnapshot()).toMatchObject({ busy: false, turns: [{ unsent: true, status: "error" }] });
    session.retrySend(handle.id);
    expect(session.getSnapshot().turns[0]).not.toHaveProperty("unsent");
    const { turn } = await story.take(peer);
    expect(turn).toBe(handle.id);
    peer.say(story.started(turn), story.delta(turn, "Because."), story.done(turn));
    const { turns } = await shows(session, ({ turns }) => turns[0]?.status === "done");
    expect(turns).toMatchObject([{ text: "Because.", proved: true }]);
  });

  test("a message that is sent again with nobody looking leaves the outbox once it was answered", async ({
    server,
    client,
  }) => {
    const outbox = new MemoryStorage();
    const turnwire = client({ outbox });
    const { session, leave, peer, story } = await watched(server, turnwire);
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "busy", retry: "same_frame" });
    await handle.done;
    leave();
    await peer.expect("session.close");
    session.retrySend(handle.id);
    // With the session opened again, or by the ack alone.
    let frame = await peer.next();
    while (frame.type !== "turn.create") {
      if (frame.type === "session.open") peer.say(...story.opened(frame));
      frame = await peer.next();
    }
    const accepted = story.accepted(frame);
    peer.say(
      ...story.begin(),
      story.ack(frame),
      accepted,
      story.started(handle.id),
      story.delta(handle.id, "So."),
      story.done(handle.id),
    );
    await vi.waitUntil(() => outbox.kept.size === 0, { interval: 5, timeout: 2_000 });
  });

  test("rate_limited goes out again by itself, when the server said, and no more than five times", async ({
    server,
    client,
  }) => {
    const { session, peer } = await watched(server, client());
    const handle = session.send("Why?");
    for (let tries = 0; tries < 5; tries++) {
      const create = await peer.expect("turn.create");
      expect(create.turn).toBe(handle.id);
      expect(session.getSnapshot().turns[0]?.status).toBe("sending");
      peer.refuse(create, { code: "rate_limited", retry: "same_frame", retry_after_ms: 5 });
    }
    expect(await handle.done).toMatchObject({ ok: false, error: { code: "rate_limited" } });
    session.discard(handle.id);
    session.send("Other");
    expect(await peer.expect("turn.create")).toMatchObject({ input: [{ text: "Other" }] });
  });

  test("rate_limited waits as long as the server said", async ({ server, client }) => {
    const frames = new Frames();
    const { session, peer } = await watched(server, client({ onFrame: frames.onFrame }));
    session.send("Why?");
    const create = await peer.expect("turn.create");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    peer.refuse(create, { code: "rate_limited", retry: "same_frame", retry_after_ms: 3_000 });
    await frames.came("error");
    const sent = (): number => frames.seen.filter(([, { type }]) => type === "turn.create").length;
    vi.advanceTimersByTime(2_999);
    expect(sent()).toBe(1);
    vi.advanceTimersByTime(1);
    expect(sent()).toBe(2);
  });

  test("what was put off goes out again alone", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer } = await watched(server, turnwire);
    const [first, second] = [session.send("one"), turnwire.session("s_2").send("two")];
    const create = await peer.expect("turn.create");
    expect((await peer.expect("session.open")).session).toBe("s_2");
    expect((await peer.expect("turn.create")).turn).toBe(second.id);
    peer.refuse(create, { code: "rate_limited", retry: "same_frame", retry_after_ms: 1 });
    expect((await peer.expect("turn.create")).turn).toBe(first.id);
    session.send("three");
    expect(await peer.expect("turn.create")).toMatchObject({ input: [{ text: "three" }] });
  });

  test("what has no time to come back at is for its sender to decide", async ({ server, client }) => {
    const { session, peer } = await watched(server, client());
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "overloaded", retry: "same_frame" });
    expect(await handle.done).toMatchObject({ ok: false, error: { code: "overloaded" }, turn: { unsent: true } });
  });

  test("draining means another connection, where it is sent again", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "draining", retry: "reconnect" });
    await peer.gone;
    const next = await opened(server, story);
    expect((await story.take(next)).turn).toBe(handle.id);
    next.say(story.started(handle.id), story.done(handle.id));
    expect((await handle.done).ok).toBe(true);
  });

  test("draining with a time comes back when the server said", async ({ client }) => {
    vi.useFakeTimers();
    const { session, socket, open } = await opening(client(stubbed));
    socket.say(...new Story("s_1").opened(open));
    session.send("Why?");
    socket.say(refusalOf(socket.sent.at(-1), { code: "draining", retry: "reconnect", retry_after_ms: 5_000 }));
    expect(session.getSnapshot()).toMatchObject({ connection: "offline", turns: [{ status: "sending" }] });
    vi.advanceTimersByTime(4_999);
    expect(session.getSnapshot().connection).toBe("offline");
    vi.advanceTimersByTime(1);
    expect(session.getSnapshot().connection).toBe("connecting");
  });

  test("a server that drains again and again is left alone longer each time", async ({ client }) => {
    vi.useFakeTimers();
    vi.mocked(Math.random).mockReturnValue(0.999);
    const { session, socket, open } = await opening(client(stubbed));
    const story = new Story("s_1");
    socket.say(...story.opened(open));
    session.send("Why?");
    let here = socket;
    const waits: number[] = [];
    for (let loss = 0; loss < 5; loss++) {
      const redialed = dialed();
      here.say(refusalOf(here.sent.at(-1), { code: "draining", retry: "reconnect" }));
      const since = Date.now();
      while (session.getSnapshot().connection === "offline") vi.advanceTimersToNextTimer();
      waits.push(Date.now() - since);
      here = await redialed;
      here.open();
      here.say(WELCOME, ...story.opened(here.sent[1] as SessionOpen));
      expect(here.sent.at(-1)?.type).toBe("turn.create");
    }
    expect(waits.at(-1)).toBeGreaterThan(3_000);
  });

  test("a turn that the log has told of cannot be sent again or discarded", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    await story.take(peer);
    peer.say(story.started(handle.id), story.error(handle.id));
    expect((await handle.done).turn).not.toHaveProperty("unsent");
    session.retrySend(handle.id);
    session.discard(handle.id);
    expect(session.getSnapshot().turns).toMatchObject([{ status: "error", error: { code: "upstream_timeout" } }]);
    session.send("Other");
    expect(await peer.expect("turn.create")).toMatchObject({ input: [{ text: "Other" }] });
  });

  test("a late refusal of a turn that the log has told of changes nothing", async ({ server, client }) => {
    const frames = new Frames();
    const { session, peer, story } = await watched(server, client({ onFrame: frames.onFrame }));
    session.send("Why?");
    const create = await story.take(peer);
    peer.refuse(create, { code: "turn_conflict" });
    await frames.came("error");
    expect((await shows(session, ({ turns }) => turns[0]?.status === "running")).turns).not.toHaveProperty("0.error");
  });
});

describe("another history", () => {
  test("a turn that the new history lacks is sent again", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyWith("t_0"));
    const handle = session.send("Why?");
    await peer.expect("turn.create");
    const other = new Story("s_1", "g_2");
    other.exchange("t_0", "Hello?", "Hello.");
    peer.say(...other.snapshot());
    expect((await other.take(peer)).turn).toBe(handle.id);
    await shows(session, ({ turns }) => turns[1]?.status === "running");
    expect(story.gen).toBe("g_1");
  });

  test("also one that the old history had acknowledged, at a place that the new one has passed", async ({
    server,
    client,
  }) => {
    const { session, peer, story } = await watched(server, client(), storyWith("t_0"));
    const handle = session.send("Why?");
    const create = await peer.expect("turn.create");
    peer.say({ ...settled(create), seq: story.seq + 1, duplicate: false });
    const other = new Story("s_1", "g_2");
    for (const turn of ["t_0", "t_1", "t_2"]) other.exchange(turn, "Hello?", "Hello.");
    peer.say(...other.snapshot());
    expect((await other.take(peer)).turn).toBe(handle.id);
    peer.say(other.started(handle.id), other.done(handle.id));
    expect((await handle.done).ok).toBe(true);
  });

  test("also where the history changed while there was no connection", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client(), storyWith("t_0"));
    const handle = session.send("Why?");
    const create = await peer.expect("turn.create");
    peer.say({ ...settled(create), seq: story.seq + 1, duplicate: false });
    peer.cut();
    const next = await server.accepted();
    await next.greet();
    const open = await next.expect("session.open");
    const again = await next.expect("turn.create");
    expect(again).toEqual(create);
    const other = new Story("s_1", "g_2");
    for (const turn of ["t_0", "t_1", "t_2"]) other.exchange(turn, "Hello?", "Hello.");
    next.say(...other.opened(open));
    const accepted = other.accepted(again);
    next.say(other.ack(again), accepted, other.started(handle.id), other.delta(handle.id, "So."), other.done(handle.id));
    expect((await handle.done).turn.text).toBe("So.");
  });
});

describe("commands that wait for their answer", () => {
  test("a cancel goes out after the turn that it is of, and again after a cut", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const cancelled = handle.cancel();
    await peer.expect("turn.create");
    expect((await peer.expect("turn.cancel")).turn).toBe(handle.id);
    peer.cut();
    const next = await opened(server, story);
    const { turn } = await story.take(next);
    const cancel = await next.expect("turn.cancel");
    expect(cancel).toMatchObject({ session: "s_1", turn });
    next.say(settled(cancel, { result: "cancelling" }));
    await cancelled;
    next.say(story.started(turn), story.delta(turn, "Be"), story.cancelling(turn), story.done(turn, "cancelled"));
    expect(await handle.done).toMatchObject({
      ok: true,
      turn: { status: "cancelled", text: "Be", finishReason: "cancelled" },
    });
  });

  test("a cancel of what was never sent sends neither", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    vi.mocked(Math.random).mockReturnValue(0.999);
    peer.close(1012);
    await becomes(turnwire, ({ connection }) => connection === "offline");
    const handle = session.send("Why?");
    await handle.cancel();
    await handle.cancel();
    expect(await handle.done).toMatchObject({
      ok: false,
      turn: { unsent: true },
      error: { message: "Stopped before it was sent." },
    });
    const next = await opened(server, story);
    session.send("Other");
    expect(await next.expect("turn.create")).toMatchObject({ input: [{ text: "Other" }] });
    session.retrySend(handle.id);
    expect((await next.expect("turn.create")).turn).toBe(handle.id);
  });

  test("a cancel of a turn that was refused sends nothing: it would stop the turn when it is sent again", async ({
    server,
    client,
  }) => {
    const { session, peer } = await watched(server, client());
    const handle = session.send("Why?");
    peer.refuse(await peer.expect("turn.create"), { code: "busy", retry: "same_frame" });
    await handle.done;
    void handle.cancel();
    session.retrySend(handle.id);
    expect((await peer.expect("turn.create")).turn).toBe(handle.id);
  });

  test("a refused cancel is told to who asked for it and says nothing of the turn", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    const cancelled = handle.cancel();
    const create = await peer.expect("turn.create");
    peer.refuse(await peer.expect("turn.cancel"), { code: "overloaded", message: "Too much to do.", retry: "same_frame" });
    await expect(cancelled).rejects.toMatchObject({ name: "TurnwireError", code: "overloaded", message: "Too much to do." });
    expect(session.getSnapshot().turns[0]?.status).toBe("sending");
    const accepted = story.accepted(create);
    peer.say(...story.begin(), story.ack(create), accepted, story.started(handle.id), story.done(handle.id));
    expect((await handle.done).ok).toBe(true);
  });

  test("a cancel that is rate limited goes out again by itself", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Why?");
    await story.take(peer);
    await shows(session, ({ turns }) => turns[0]?.status === "running");
    const cancelled = handle.cancel();
    peer.refuse(await peer.expect("turn.cancel"), { code: "rate_limited", retry: "same_frame", retry_after_ms: 1 });
    peer.say(settled(await peer.expect("turn.cancel"), { result: "cancelling" }));
    await cancelled;
  });

  test("respond resolves when the answer is stored, and rejects when another was first", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const handle = session.send("Delete it.");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.asked(turn, "r_1"), story.asked(turn, "r_2"));
    const { turns } = await shows(session, ({ turns }) => turns[0]?.asks.length === 2);
    expect(turns[0]).toMatchObject({
      status: "parked",
      asks: [{ turn, request: "r_1", kind: "approval" }, { request: "r_2" }],
    });
    const [first, second] = turns[0]?.asks ?? [];
    if (!first || !second) throw new Error("no asks");

    const responded = session.respond(first, { ok: true });
    const respond = await peer.expect("turn.respond");
    expect(respond).toMatchObject({ session: "s_1", turn, request: "r_1", value: { ok: true } });
    peer.say(settled(respond), story.responded(turn, "r_1"));
    await responded;

    const late = session.respond(second, false);
    peer.refuse(await peer.expect("turn.respond"), { code: "not_found", message: "It was answered." });
    await expect(late).rejects.toThrow(TurnwireError);
    await expect(late).rejects.toMatchObject({ code: "not_found", retry: "none", message: "It was answered." });
    peer.say(story.responded(turn, "r_2"), story.started(turn), story.done(turn));
    expect((await handle.done).turn.asks).toEqual([]);
  });

  test("a response survives a cut", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const responded = session.respond({ turn: "t_1", request: "r_1", kind: "tool_result", detail: {} }, 42);
    await peer.expect("turn.respond");
    peer.cut();
    const next = await opened(server, story);
    next.say(settled(await next.expect("turn.respond")));
    await responded;
  });

  test("stop cancels every turn that has not ended, queued ones first", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    const [first, second, third] = [
      session.send("one"),
      session.send("two", { onBusy: "queue" }),
      session.send("three", { onBusy: "queue" }),
    ];
    await story.take(peer);
    peer.say(story.started(first.id));
    await story.take(peer, "queued");
    await story.take(peer, "queued");
    await shows(session, ({ turns }) => turns.at(-1)?.status === "queued");
    const stopped = session.stop();
    for (const { id } of [third, second, first]) {
      const cancel = await peer.expect("turn.cancel");
      expect(cancel.turn).toBe(id);
      peer.say(settled(cancel, { result: "cancelling" }));
    }
    await stopped;
    peer.say(story.done(third.id, "cancelled"), story.done(second.id, "cancelled"), story.cancelling(first.id));
    expect((await shows(session, ({ turns }) => turns[0]?.status === "stopping")).busy).toBe(true);
    peer.say(story.done(first.id, "cancelled"));
    await first.done;
    await session.stop();
    expect(session.getSnapshot().busy).toBe(false);
  });
});

describe("the outbox by itself", () => {
  test("to hold or to release what does not wait changes nothing", () => {
    const store = new MemoryStorage();
    const outbox = new Outbox(store, "outbox", (message) => expect.unreachable(message));
    outbox.hold("t_1", { code: "busy", message: "It is busy.", retry: "same_frame" });
    outbox.release("t_1");
    outbox.remove("t_1");
    expect(outbox.creates()).toEqual([]);
    expect(store.kept.size).toBe(0);
  });

  test("another history of one session leaves the messages of others alone", () => {
    const outbox = new Outbox(undefined, "outbox", (message) => expect.unreachable(message));
    for (const session of ["s_1", "s_2"])
      outbox.add({ type: "turn.create", id: `t_${session}`, session, turn: `t_${session}` }, "ada");
    expect(outbox.take("bob")).toEqual([]);
    expect(outbox.take("ada")).toHaveLength(2);
    outbox.unsend("s_2");
    expect(outbox.take("ada").map(({ id }) => id)).toEqual(["t_s_2"]);
    expect(outbox.take("ada")).toEqual([]);
  });
});

function storyWith(turn: string): Story {
  const story = new Story("s_1");
  story.exchange(turn, "Hello?", "Hello.");
  return story;
}
