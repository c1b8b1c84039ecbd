/** The client and its one connection: when it dials, what it says first, how it comes back and when it stays away. */

import { describe, expect, vi } from "vitest";
import manifest from "../package.json" with { type: "json" };
import { TurnwireError } from "../src/index.js";
import {
  becomes,
  dialed,
  Frames,
  held,
  loaded,
  opened,
  opening,
  read,
  shows,
  stubbed,
  stubPage,
  test,
  watched,
} from "./support/chat.js";
import { WELCOME } from "./support/scripted_server.js";
import { Story } from "./support/story.js";

/** For what gives no sign: looked at often, waited for long. */
const PATIENT = { interval: 1, timeout: 4_000 };

describe("dialing", () => {
  test("nothing is dialed before the first subscribe", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.getSnapshot();
    turnwire.subscribe(() => {});
    const listed = turnwire.sessions.list();
    (await server.called()).answer(200, { sessions: [], next: null });
    await listed;
    expect(turnwire.connection).toBe("idle");
    expect(server.connections).toBe(0);

    session.subscribe(() => {});
    expect(turnwire.connection).toBe("connecting");
    await server.accepted();
  });

  test("a send dials too, and hello, open and create leave together", async ({ server, client }) => {
    const turnwire = client();
    const handle = turnwire.session("s_1").send("Why?");
    const peer = await server.accepted();
    expect(await peer.expect("hello")).toEqual({
      type: "hello",
      client: { name: "turnwire-js", version: manifest.version },
    });
    const open = await peer.expect("session.open");
    expect(open).toMatchObject({ session: "s_1", history: 20 });
    expect(open).not.toHaveProperty("after");
    expect(await peer.expect("turn.create")).toEqual({
      type: "turn.create",
      id: handle.id,
      session: "s_1",
      turn: handle.id,
      input: [{ type: "text", text: "Why?" }],
    });
  });

  test("the socket speaks the JSON subprotocol at the address that was given", async ({ server, client }) => {
    client({}, `${server.url.replace("ws:", "http:")}?room=1#frag`)
      .session("s_1")
      .subscribe(() => {});
    const { request } = await server.accepted();
    expect(request.url).toBe("/v1/ws?room=1");
    expect(request.headers["sec-websocket-protocol"]).toBe("turnwire.v1.json");
  });

  test("a relative address is the page's", async ({ server, client }) => {
    vi.stubGlobal("location", new URL(server.url.replace("ws:", "http:").replace("/v1/ws", "/chat/page#s_1")));
    client({}, "/v1/ws")
      .session("s_1")
      .subscribe(() => {});
    expect((await server.accepted()).request.url).toBe("/v1/ws");
  });

  test.for(["ftp://example.com/v1/ws", "not an address", "/v1/ws", "mailto:wss@example.com"])(
    "%s is no address and throws TypeError",
    (url, { client }) => {
      expect(() => client({}, url)).toThrow(TypeError);
    },
  );

  test("a welcome makes it live and tells the user and the models", async ({ server, client }) => {
    const turnwire = client();
    expect(turnwire.models).toEqual([]);
    expect(turnwire.user).toBeUndefined();
    const seen: string[] = [];
    turnwire.subscribe(() => seen.push(turnwire.connection));
    turnwire.session("s_1").subscribe(() => {});
    const peer = await server.accepted();
    await peer.greet({ user: "ada", models: ["fast", "careful"] });
    await becomes(turnwire, ({ connection }) => connection === "live");
    expect(turnwire.models).toEqual(["fast", "careful"]);
    expect(turnwire.user).toBe("ada");
    expect([...new Set(seen)]).toEqual(["connecting", "live"]);
  });

  test("a listener that left is told no more", async ({ server, client }) => {
    const turnwire = client();
    const left = vi.fn();
    turnwire.subscribe(left)();
    turnwire.session("s_1").subscribe(() => {});
    await (await server.accepted()).greet();
    await becomes(turnwire, ({ connection }) => connection === "live");
    expect(left).not.toHaveBeenCalled();
  });

  test("several sessions share one connection", async ({ server, client }) => {
    const turnwire = client();
    const { peer } = await watched(server, turnwire);
    const other = turnwire.session("s_2");
    other.subscribe(() => {});
    await new Story("s_2").answerOpen(peer);
    await shows(other, loaded);
    expect(server.connections).toBe(1);
  });

  test("ids of sessions and turns fit the protocol and differ", ({ client }) => {
    const turnwire = client({ outbox: false });
    const ids = Array.from({ length: 200 }, () => turnwire.session().id);
    expect(new Set(ids).size).toBe(200);
    for (const id of ids) expect(id).toMatch(/^s_[a-z0-9]{16,62}$/);
    expect(turnwire.session("s_1")).toBe(turnwire.session("s_1"));
  });
});

describe("tokens", () => {
  test("a token is asked for each connection", async ({ server, client }) => {
    let count = 0;
    client({ token: async () => `token ${++count}` })
      .session("s_1")
      .subscribe(() => {});
    const first = await server.accepted();
    expect((await first.greet()).token).toBe("token 1");
    first.cut();
    expect((await (await server.accepted()).expect("hello")).token).toBe("token 2");
  });

  test("where no token is to be had the client says so and tries again", async ({ server, client }) => {
    const token = vi.fn<() => Promise<string>>().mockRejectedValueOnce(new Error("signed out")).mockResolvedValue("t");
    const turnwire = client({ token });
    const problems: (string | undefined)[] = [];
    turnwire.subscribe(() => problems.push(turnwire.problem));
    turnwire.session("s_1").subscribe(() => {});
    expect((await (await server.accepted()).greet()).token).toBe("t");
    expect(problems).toContain("There is no token.");
    await becomes(turnwire, ({ connection, problem }) => connection === "live" && problem === undefined);
  });

  test("a token that never comes is given up and asked for again", ({ client }) => {
    vi.useFakeTimers();
    const token = vi.fn(() => new Promise<string>(() => {}));
    const turnwire = client({ token });
    turnwire.session("s_1").subscribe(() => {});
    vi.advanceTimersByTime(10_000);
    expect(turnwire.connection).toBe("offline");
    vi.advanceTimersByTime(1);
    expect(turnwire.connection).toBe("connecting");
    expect(token).toHaveBeenCalledTimes(2);
  });

  test("a token that comes or fails after the client was closed changes nothing", async ({ server, client }) => {
    const [coming, failing] = [held<string>(), held<string>()];
    const comes = client({ token: () => coming.promise });
    const fails = client({ token: () => failing.promise });
    for (const turnwire of [comes, fails]) {
      turnwire.session("s_1").subscribe(() => {});
      turnwire.close();
    }
    coming.resolve("late");
    failing.reject(new Error("late"));
    const listed = client().sessions.list();
    (await server.called()).answer(200, { sessions: [], next: null });
    await listed;
    expect([comes.connection, fails.connection]).toEqual(["idle", "idle"]);
    expect(server.connections).toBe(0);
  });

  test("auth.expiring is answered with a fresh token", async ({ server, client }) => {
    let count = 0;
    const { peer } = await watched(server, client({ token: async () => `token ${++count}` }));
    peer.say({ type: "auth.expiring", expires_at: 0 });
    expect(await peer.expect("auth.refresh")).toEqual({ type: "auth.refresh", token: "token 2" });
  });

  test("auth.expiring without a token to be had says nothing and keeps the connection", async ({ server, client }) => {
    const token = vi.fn<() => Promise<string>>().mockResolvedValueOnce("t").mockRejectedValueOnce(new Error("signed out"));
    const { peer, session } = await watched(server, client({ token }));
    peer.say({ type: "auth.expiring", expires_at: 0 });
    await vi.waitUntil(() => token.mock.results[1], PATIENT);
    session.send("Still there?");
    await peer.expect("turn.create");
  });

  test("auth.expiring says nothing to a client that was not told to have tokens", async ({ server, client }) => {
    const { peer, session } = await watched(server, client());
    peer.say({ type: "auth.expiring", expires_at: 0 }, { type: "pong" });
    session.send("Still there?");
    await peer.expect("turn.create");
  });

  test("a fresh token that comes after its connection is gone is not sent on the next", async ({ server, client }) => {
    const fresh = held<string>();
    const token = vi
      .fn<() => Promise<string>>()
      .mockResolvedValueOnce("a")
      .mockReturnValueOnce(fresh.promise)
      .mockResolvedValue("b");
    const { peer, session, story } = await watched(server, client({ token }));
    peer.say({ type: "auth.expiring", expires_at: 0 });
    await vi.waitUntil(() => token.mock.calls.length === 2, PATIENT);
    peer.cut();
    const next = await opened(server, story);
    fresh.resolve("late");
    await fresh.promise;
    session.send("Still there?");
    await next.expect("turn.create");
  });
});

describe("coming back", () => {
  test("a cut connection is made again and takes up at the cursor, without losing or doubling a word", async ({
    server,
    client,
  }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    const handle = session.send("Why?");
    const text = read(handle);
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Because "));
    await shows(session, ({ turns }) => turns[0]?.text === "Because ");
    peer.cut();
    story.delta(turn, "it ");
    const next = await server.accepted();
    await next.greet();
    expect((await story.answerOpen(next)).after).toEqual({ gen: "g_1", seq: 3, turn });
    next.say(story.delta(turn, "scatters."), story.done(turn));
    expect(await text).toBe("Because it scatters.");
    const { ok, turn: answered } = await handle.done;
    expect(ok).toBe(true);
    expect(answered).toMatchObject({ text: "Because it scatters.", status: "done", proved: true });
  });

  test("the wait grows with each loss, up to a maximum, and has full jitter", async ({ client }) => {
    vi.mocked(Math.random).mockReturnValue(0.5);
    vi.useFakeTimers();
    const turnwire = client(stubbed);
    turnwire.session("s_1").subscribe(() => {});
    const waits: number[] = [];
    for (let loss = 0; loss < 8; loss++) {
      (await dialed()).lose();
      const since = Date.now();
      while (turnwire.connection === "offline") vi.advanceTimersToNextTimer();
      waits.push(Date.now() - since);
    }
    expect(waits).toEqual([125, 250, 500, 1_000, 2_000, 4_000, 5_000, 5_000]);
  });

  test("retry_after_ms of the error before the close is waited for", async ({ server, client }) => {
    const turnwire = client();
    const { peer } = await watched(server, turnwire);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    peer.say({
      type: "error",
      error: { code: "overloaded", message: "Too many people.", retry: "reconnect", retry_after_ms: 7_000 },
    });
    peer.close(4503);
    await becomes(turnwire, ({ connection }) => connection === "offline");
    expect(turnwire.problem).toBe("Too many people.");
    vi.advanceTimersByTime(6_999);
    expect(turnwire.connection).toBe("offline");
    vi.advanceTimersByTime(1);
    expect(turnwire.connection).toBe("connecting");
  });

  test("goaway is followed by another connection, which takes up where the first one ended", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    const handle = session.send("Why?");
    const text = read(handle);
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "Because "), {
      type: "goaway",
      reason: "deploy",
      reconnect_min_ms: 0,
      reconnect_max_ms: 0,
    });
    const next = await server.accepted();
    await peer.gone;
    await next.greet();
    await story.answerOpen(next);
    next.say(story.delta(turn, "so."), story.done(turn));
    expect(await text).toBe("Because so.");
    await becomes(turnwire, ({ connection }) => connection === "live");
  });

  test("after a goaway it comes back at a time between the two that were named, also if it is closed before", async ({
    client,
  }) => {
    vi.useFakeTimers();
    const turnwire = client(stubbed);
    const { socket } = await opening(turnwire);
    vi.mocked(Math.random).mockReturnValue(0.5);
    const goaway = { type: "goaway", reason: "deploy", reconnect_min_ms: 1_000, reconnect_max_ms: 3_000 } as const;
    socket.say(goaway);
    vi.advanceTimersByTime(1_999);
    expect(turnwire.connection).toBe("live");
    let redialed = dialed();
    vi.advanceTimersByTime(1);
    expect(turnwire.connection).toBe("connecting");
    const next = await redialed;
    next.open();
    next.say(WELCOME, goaway);
    next.lose(1012);
    vi.advanceTimersByTime(1_999);
    expect(turnwire.connection).toBe("offline");
    redialed = dialed();
    vi.advanceTimersByTime(1);
    await redialed;
  });

  test("what a connection still brings after it was left counts for nothing", async ({ client }) => {
    vi.useFakeTimers();
    const frames = new Frames();
    const turnwire = client({ ...stubbed, onFrame: frames.onFrame });
    const { socket } = await opening(turnwire);
    vi.advanceTimersByTime(WELCOME.ping_ms + 3_000);
    const { connection } = turnwire;
    expect(connection).toBe("offline");
    const seen = frames.seen.length;
    socket.say({ ...WELCOME, user: "somebody else" });
    socket.lose(4401);
    socket.open();
    expect([turnwire.connection, turnwire.user, frames.seen.length]).toEqual([connection, "anonymous", seen]);
  });

  test("a silent connection is asked for a sign of life and left without one", async ({ server, client }) => {
    const frames = new Frames();
    const turnwire = client({ onFrame: frames.onFrame });
    turnwire.session("s_1").subscribe(() => {});
    const peer = await server.accepted();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    await peer.greet({ ping_ms: 20_000 });
    await peer.expect("session.open");
    await frames.came("welcome");
    vi.advanceTimersByTime(20_000);
    await peer.expect("ping");
    peer.say({ type: "pong" });
    await frames.came("pong");
    vi.advanceTimersByTime(20_000);
    await peer.expect("ping");
    expect(turnwire.connection).toBe("live");
    vi.advanceTimersByTime(3_000);
    expect(turnwire.connection).toBe("offline");
    vi.advanceTimersByTime(1);
    expect(turnwire.connection).toBe("connecting");
    await peer.gone;
  });

  test("a page that is seen again looks whether its connection is alive, and one that is offline comes back at once", async ({
    server,
    client,
  }) => {
    const page = stubPage("hidden");
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    page.look("hidden");
    session.send("Nobody looks.");
    await story.take(peer);
    page.look("visible");
    await peer.expect("ping");
    peer.say({ type: "pong" });

    vi.mocked(Math.random).mockReturnValue(0.999);
    peer.close(1012);
    await becomes(turnwire, ({ connection }) => connection === "offline");
    page.window.dispatchEvent(new Event("online"));
    expect(turnwire.connection).toBe("connecting");
    await opened(server, story);
  });

  test("a client that was closed is not woken, and looks at the page no more", async ({ server, client }) => {
    const page = stubPage("visible");
    const turnwire = client();
    const { peer } = await watched(server, turnwire);
    let looks = 0;
    Object.defineProperty(page.document, "visibilityState", { get: () => (looks++, "visible") });
    const wake = (): void => {
      for (const event of ["visibilitychange", "online"]) page.window.dispatchEvent(new Event(event));
    };
    wake();
    expect(looks).toBeGreaterThan(0);
    await peer.expect("ping");
    turnwire.close();
    looks = 0;
    wake();
    expect(looks).toBe(0);
    expect(turnwire.connection).toBe("idle");
    await peer.gone;
    expect(server.connections).toBe(1);
  });
});

describe("staying away", () => {
  test("a refusal keeps it away, fails what waits with the server's sentence, and retrySend dials again", async ({
    server,
    client,
  }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(() => {});
    const handle = session.send("Why?");
    const peer = await server.accepted();
    await peer.expect("hello");
    peer.say({ type: "error", error: { code: "unauthenticated", message: "Please sign in again.", retry: "none" } });
    peer.close(4401);
    const { ok, turn } = await handle.done;
    expect(ok).toBe(false);
    expect(turn).toMatchObject({ status: "error", unsent: true, error: { code: "unauthenticated", message: "Please sign in again." } });
    expect(turnwire.connection).toBe("refused");
    expect(session.getSnapshot()).toMatchObject({ connection: "refused", problem: "Please sign in again." });

    session.retrySend(handle.id);
    expect(session.getSnapshot().turns[0]?.status).toBe("sending");
    const next = await server.accepted();
    await next.greet();
    const story = new Story("s_1");
    await story.answerOpen(next);
    const { turn: id } = await story.take(next);
    expect(id).toBe(handle.id);
    next.say(story.started(id), story.delta(id, "Because."), story.done(id));
    await shows(session, ({ turns }) => turns[0]?.status === "done" && !turns[0].unsent);
  });

  test("retrySend of one turn sends only that one", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(() => {});
    const [first, second] = [session.send("one"), session.send("two")];
    const peer = await server.accepted();
    await peer.expect("hello");
    peer.close(4401);
    await Promise.all([first.done, second.done]);
    session.retrySend(second.id);
    const story = new Story("s_1");
    const next = await opened(server, story);
    expect((await story.take(next)).turn).toBe(second.id);
    session.send("three", { parent: null });
    expect(await next.expect("turn.create")).toMatchObject({ input: [{ text: "three" }] });
    session.discard(first.id);
    expect(session.getSnapshot().turns.map(({ id }) => id)).not.toContain(first.id);
  });

  test("a refusal without a word names its close code", async ({ server, client }) => {
    const turnwire = client();
    turnwire.session("s_1").subscribe(() => {});
    (await server.accepted()).close(4403);
    await becomes(turnwire, ({ connection }) => connection === "refused");
    expect(turnwire.problem).toMatch(/4403/);
  });

  test("what is sent to a server that refused this client dials again", async ({ server, client }) => {
    const turnwire = client();
    const session = turnwire.session("s_1");
    session.subscribe(() => {});
    (await server.accepted()).close(4401);
    await becomes(turnwire, ({ connection }) => connection === "refused");
    const handle = session.send("Why?");
    const peer = await server.accepted();
    peer.close(4401);
    expect((await handle.done).turn).toMatchObject({ status: "error", unsent: true });
  });

  test("who waits for an answer to a response is told of a refusal", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer } = await watched(server, turnwire);
    const answered = session.respond({ turn: "t_1", request: "r_1", kind: "approval", detail: {} }, true);
    await peer.expect("turn.respond");
    peer.close(4403);
    await expect(answered).rejects.toThrow(TurnwireError);
  });

  test("a server that knows no such address gives one sentence", async ({ server, client }) => {
    server.refusal = "404 Not Found";
    const turnwire = client();
    const session = turnwire.session("s_1");
    const problems = new Set<string | undefined>();
    turnwire.subscribe(() => turnwire.connection === "offline" && problems.add(turnwire.problem));
    session.subscribe(() => {});
    await server.refused();
    await server.refused();
    await server.refused();
    expect([...problems]).toEqual(["No Turnwire server answers at this address."]);
    server.refusal = undefined;
    await (await server.accepted()).greet();
    await becomes(turnwire, ({ connection, problem }) => connection === "live" && !problem);
  });

  test.for(["Hello from another WebSocket server", '"text"', "null", "[]", "{}", '{"type": 7}', new Uint8Array([1, 2, 3])])(
    "a server whose messages are %s does not speak Turnwire, which is said and reported once",
    async (garbage, { server, client }) => {
      const onFault = vi.fn();
      const turnwire = client({ onFault });
      const problems = new Set<string | undefined>();
      turnwire.subscribe(() => turnwire.connection === "offline" && problems.add(turnwire.problem));
      turnwire.session("s_1").send("Why?");
      for (let tries = 0; tries < 3; tries++) {
        const peer = await server.accepted();
        peer.sayRaw(garbage);
        await peer.gone;
      }
      expect([...problems]).toEqual(["The server at this address does not speak Turnwire."]);
      expect(onFault.mock.calls).toEqual([["The server sent what is no frame."]]);
    },
  );

  test("a server that says nothing does not speak Turnwire", async ({ server, client }) => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    vi.mocked(Math.random).mockReturnValue(0.5);
    const turnwire = client();
    turnwire.session("s_1").subscribe(() => {});
    const peer = await server.accepted();
    await peer.expect("hello");
    vi.advanceTimersByTime(10_000);
    expect(turnwire.connection).toBe("offline");
    expect(turnwire.problem).toBe("The server at this address does not speak Turnwire.");
    await peer.gone;
  });

  test("garbage from a Turnwire server is a broken connection: another is made, and it is reported once", async ({
    server,
    client,
  }) => {
    const onFault = vi.fn();
    const turnwire = client({ onFault });
    const { peer, story } = await watched(server, turnwire);
    peer.sayRaw("{");
    const next = await opened(server, story);
    next.sayRaw("}");
    await opened(server, story);
    expect(onFault.mock.calls).toEqual([["The server sent what is no frame."]]);
  });
});

describe("closing", () => {
  test("close leaves in order, tells who waits, and nothing dials again", async ({ server, client }) => {
    const turnwire = client();
    const { session, peer, story } = await watched(server, turnwire);
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    const answered = session.respond({ turn, request: "r_1", kind: "approval", detail: {} }, true);
    turnwire.close();
    await expect(answered).rejects.toThrow("This page closed the connection.");
    expect(await handle.done).toMatchObject({ ok: false, error: { message: "This page closed the connection." } });
    await peer.gone;
    session.subscribe(() => {});
    await session.stop();
    await expect(session.respond({ turn, request: "r_1", kind: "approval", detail: {} }, true)).rejects.toThrow(
      TurnwireError,
    );
    expect(turnwire.connection).toBe("idle");
    expect(server.connections).toBe(1);
  });

  test("what is sent to a closed client is told so at once", async ({ client }) => {
    const turnwire = client();
    turnwire.close();
    expect(await turnwire.session("s_1").send("Why?").done).toMatchObject({ ok: false });
  });

  test("a page may close twice, and without ever having dialed", ({ client }) => {
    const turnwire = client();
    turnwire.close();
    turnwire.close();
    expect(turnwire.connection).toBe("idle");
  });
});
