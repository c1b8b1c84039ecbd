/** What a page may choose: who sees frames and faults, and which WebSocket is taken. */

import { describe, expect, vi } from "vitest";
import type { OnFrame } from "../src/index.js";
import type { Command, ServerFrame } from "../src/wire.js";
import { becomes, Frames, shows, test, watched } from "./support/chat.js";

describe("onFrame", () => {
  test("sees every frame as it passes, in both directions and in order", async ({ server, client }) => {
    const frames = new Frames();
    const { session, peer, story } = await watched(server, client({ onFrame: frames.onFrame }));
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn), story.delta(turn, "So."), story.done(turn));
    peer.sayRaw(JSON.stringify({ type: "weather", sunny: true }));
    await handle.done;
    await frames.came("weather" as ServerFrame["type"]);
    expect(frames.seen.map(([way, { type }]) => `${way} ${type}`)).toEqual([
      "out hello",
      "out session.open",
      "in welcome",
      "in session.opened",
      "out turn.create",
      "in session.opened",
      "in ack",
      "in turn.accepted",
      "in turn.started",
      "in turn.delta",
      "in turn.done",
      "in weather",
    ]);
    const out = frames.seen.filter(([way]) => way === "out").map(([, frame]) => frame as Command);
    expect(out).toEqual(peer.received);
  });

  test("is told of a frame before the page is", async ({ server, client }) => {
    const order: string[] = [];
    const onFrame: OnFrame = (_, { type }) => order.push(type);
    const turnwire = client({ onFrame });
    turnwire.subscribe(() => order.push(turnwire.connection));
    const { peer } = await watched(server, turnwire);
    expect(order.indexOf("welcome")).toBeLessThan(order.indexOf("live"));
    expect(peer.received).toHaveLength(2);
  });
});

describe("onFault", () => {
  test("is told of each kind of fault once", async ({ server, client }) => {
    const onFault = vi.fn();
    const { session, peer, story } = await watched(server, client({ onFault }));
    const handle = session.send("Why?");
    const { turn } = await story.take(peer);
    peer.say(story.started(turn));
    for (let times = 0; times < 2; times++) {
      peer.sayRaw(
        JSON.stringify({ type: "turn.delta", session: "s_1", turn, seq: story.seq + 1, part: 7, kind: "text", text: "?" }),
      );
      await story.answerOpen(peer);
    }
    await shows(session, ({ turns }) => turns[0]?.status === "running");
    peer.say(story.done(turn));
    await handle.done;
    expect(onFault).toHaveBeenCalledOnce();
  });

  test("is console.error unless told otherwise", async ({ server, client }) => {
    const said = vi.spyOn(console, "error").mockReturnValue();
    const turnwire = client({ onFault: undefined } as never);
    const { peer, story } = await watched(server, turnwire);
    peer.sayRaw("{");
    const next = await server.accepted();
    await next.greet();
    await story.answerOpen(next);
    expect(said.mock.calls).toEqual([["The server sent what is no frame."]]);
  });
});

describe("webSocket", () => {
  test("another class is taken in place of the platform's", async ({ server, client }) => {
    const made: string[] = [];
    class Counted extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        made.push(url);
      }
    }
    const turnwire = client({ webSocket: Counted });
    await watched(server, turnwire);
    expect(made).toEqual([server.url]);
  });

  test("one that cannot be made is an address that does not answer", async ({ server, client }) => {
    let tries = 0;
    class Forbidden extends WebSocket {
      constructor(url: string, protocols: string[]) {
        // As where a page of https: may not open ws:.
        if (++tries === 1) throw new DOMException("insecure", "SecurityError");
        super(url, protocols);
      }
    }
    const turnwire = client({ webSocket: Forbidden });
    const states: string[] = [];
    turnwire.subscribe(() => states.push(turnwire.connection));
    turnwire.session("s_1").subscribe(() => {});
    await becomes(turnwire, ({ connection }) => connection === "offline");
    expect(turnwire.problem).toMatch(/\.$/);
    await (await server.accepted()).greet();
    await becomes(turnwire, ({ connection }) => connection === "live");
  });
});
