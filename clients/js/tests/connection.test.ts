/** The pure connection: when it dials, greets, asks for a sign of life, leaves and comes back. No socket, no clock. */

import { describe, expect, test } from "vitest";

import { ABNORMAL, Connection, NOT_TURNWIRE } from "../src/connection.js";
import { errorBody, goaway, malformed, opened as sessionOpened, welcome } from "./support/frames.js";

const HELLO = { type: "hello", client: { name: "turnwire-js", version: "1.2.3" } };
/** The largest number that Math.random may give, as good as 1. */
const ALMOST = 1 - Number.EPSILON;

/** A connection whose socket is open, with the hello on its way. */
function greeting(now = 0): Connection {
  const connection = new Connection();
  connection.want(now);
  connection.opened("1.2.3", undefined);
  return connection;
}

function live(now = 0, ping_ms = 20_000): Connection {
  const connection = greeting(now);
  connection.received(welcome({ ping_ms }), now, 0);
  return connection;
}

/** Dial at `due` and lose the new connection as the code says; the wait that follows, in ms. */
function waitAfter(connection: Connection, code: number, chance: number): number {
  const now = connection.due;
  connection.tick(now, 0);
  connection.opened("1.2.3", undefined);
  connection.lost(code, now, chance);
  return connection.due - now;
}

describe("dialing and greeting", () => {
  test("nothing is dialled until somebody needs the server", () => {
    const connection = new Connection();
    expect(connection.status).toBe("idle");
    expect(connection.due).toBe(Infinity);
    expect(connection.tick(1_000_000, 0)).toEqual([]);
    expect(connection.wake(0)).toEqual([]);
  });

  test("who needs the server makes it dial once", () => {
    const connection = new Connection();
    expect(connection.want(0)).toEqual(["dial"]);
    expect(connection.status).toBe("connecting");
    expect(connection.greeted).toBe(false);
    expect(connection.want(1)).toEqual([]);
  });

  test("HELLO-1: the hello is the first that is sent, and what waits may follow at once", () => {
    const connection = new Connection();
    connection.want(0);
    expect(connection.opened("1.2.3", undefined)).toEqual([HELLO, "greeted"]);
    expect(connection.greeted).toBe(true);
    expect(connection.status).toBe("connecting");
  });

  test("a token goes with the hello", () => {
    const connection = new Connection();
    connection.want(0);
    expect(connection.opened("1.2.3", "secret")).toEqual([{ ...HELLO, token: "secret" }, "greeted"]);
  });

  test("the welcome makes it live and takes away what was wrong", () => {
    const connection = new Connection();
    connection.want(0);
    connection.lost(ABNORMAL, 0, 0.5);
    expect(connection.problem?.message).toBe("No Turnwire server answers at this address.");
    connection.tick(connection.due, 0);
    connection.opened("1.2.3", undefined);
    const frame = welcome();
    connection.received(frame, 500, 0);
    expect(connection.status).toBe("live");
    expect(connection.problem).toBeUndefined();
    expect(connection.welcome).toBe(frame);
  });

  test("a dial that nothing comes of within 10 s is given up and tried again", () => {
    const connection = new Connection();
    connection.want(0);
    expect(connection.due).toBe(10_000);
    expect(connection.tick(9_999, 0)).toEqual([]);
    expect(connection.tick(10_000, 0)).toEqual(["drop", "lost"]);
    expect(connection.status).toBe("offline");
    expect(connection.problem?.message).toBe("No Turnwire server answers at this address.");
  });

  test("a server that takes the hello and never welcomes is said not to speak Turnwire, and is tried again", () => {
    const connection = greeting();
    expect(connection.tick(10_000, 0)).toEqual(["drop", "lost"]);
    expect(connection.problem?.message).toBe("The server at this address does not speak Turnwire.");
    expect(connection.status).toBe("offline");
  });

  test("a server that was a Turnwire server before may be slow without being called anything else", () => {
    const connection = live();
    connection.lost(ABNORMAL, 1_000, 0);
    connection.tick(connection.due, 0);
    connection.opened("1.2.3", undefined);
    connection.tick(connection.due, 0);
    expect(connection.status).toBe("offline");
    expect(connection.problem).toBeUndefined();
  });

  test("leaving a server that took the hello and said nothing sensible tells people so", () => {
    const connection = greeting();
    expect(connection.leave(5, 0.5, NOT_TURNWIRE)).toEqual(["drop", "lost"]);
    expect(connection.status).toBe("offline");
    expect(connection.problem?.message).toBe("The server at this address does not speak Turnwire.");
    expect(connection.due).toBe(130);
  });

  test("a cut before the welcome says nothing of the server, an orderly close does", () => {
    const cut = greeting();
    cut.lost(1006, 5, 0.5);
    expect(cut.problem?.message).toBe("No Turnwire server answers at this address.");
    const closed = greeting();
    closed.lost(1000, 5, 0.5);
    expect(closed.problem?.message).toBe("The server at this address does not speak Turnwire.");
  });

  test("frames of other types, known or not, ask nothing of the connection", () => {
    const connection = live();
    expect(connection.received({ type: "pong" }, 1, 0)).toEqual([]);
    expect(connection.received(malformed({ type: "weather.changed" }), 2, 0)).toEqual([]);
    expect(connection.received({ type: "error", reply_to: "c_1", error: errorBody() }, 3, 0)).toEqual([]);
    expect(connection.status).toBe("live");
  });

  test("a token that ends soon is to be refreshed", () => {
    expect(live().received({ type: "auth.expiring", expires_at: 5 }, 1, 0)).toEqual(["refresh"]);
  });

  test("nobody needs it any more: it ends, and can be begun again", () => {
    const connection = live();
    expect(connection.close()).toEqual(["drop", "lost"]);
    expect(connection.status).toBe("idle");
    expect(connection.greeted).toBe(false);
    expect(connection.due).toBe(Infinity);
    expect(connection.want(7)).toEqual(["dial"]);
  });
});

describe("signs of life", () => {
  test("LIVE-2: after ping_ms of silence it sends a ping, not before", () => {
    const connection = live(1_000, 20_000);
    expect(connection.due).toBe(21_000);
    expect(connection.tick(20_999, 0)).toEqual([]);
    expect(connection.tick(21_000, 0)).toEqual([{ type: "ping" }]);
    expect(connection.due).toBe(24_000);
  });

  test("LIVE-2: any frame is a sign of life and puts the ping off", () => {
    const connection = live(0, 20_000);
    connection.received({ type: "pong" }, 15_000, 0);
    expect(connection.tick(20_000, 0)).toEqual([]);
    expect(connection.due).toBe(35_000);
    expect(connection.tick(35_000, 0)).toEqual([{ type: "ping" }]);
  });

  test("LIVE-2: without an answer the connection is given up 3 s after the ping", () => {
    const connection = live(0, 20_000);
    connection.tick(20_000, 0);
    expect(connection.tick(22_999, 0)).toEqual([]);
    expect(connection.tick(23_000, 0.5)).toEqual(["drop", "lost"]);
    expect(connection.status).toBe("offline");
  });

  test("LIVE-2: with an answer in time it goes on", () => {
    const connection = live(0, 20_000);
    connection.tick(20_000, 0);
    connection.received({ type: "pong" }, 22_500, 0);
    expect(connection.tick(23_000, 0)).toEqual([]);
    expect(connection.due).toBe(42_500);
    expect(connection.status).toBe("live");
  });

  test("LIVE-2: on waking a live connection is asked at once, and once only", () => {
    const connection = live(0, 20_000);
    expect(connection.wake(5_000)).toEqual([{ type: "ping" }]);
    expect(connection.due).toBe(8_000);
    expect(connection.wake(5_001)).toEqual([]);
    expect(connection.tick(8_000, 0)).toEqual(["drop", "lost"]);
  });

  test("on waking a connection that waits is dialled at once", () => {
    const connection = live();
    connection.lost(ABNORMAL, 0, ALMOST);
    expect(connection.wake(1)).toEqual(["dial"]);
    expect(connection.wake(2)).toEqual([]);
  });
});

describe("leaving when the server says so", () => {
  test.each([
    [0, 1_000],
    [0.5, 3_000],
    [ALMOST, 5_000],
  ])("CLOSE-5: after a goaway it comes back at a random time between the two that it names (chance %d)", (chance, at) => {
    const connection = live();
    connection.received(goaway(1_000, 5_000), 0, chance);
    const left = connection.due;
    expect(left).toBeCloseTo(at, 3);
    expect(left).toBeLessThanOrEqual(5_000);
    expect(connection.tick(left - 1, 0)).toEqual([]);
    expect(connection.tick(left, 0)).toEqual(["drop", "lost", "dial"]);
    expect(connection.status).toBe("connecting");
  });

  test("CLOSE-5: a later goaway time does not put off the ping, and the ping does not put off the leaving", () => {
    const connection = live(0, 20_000);
    connection.received(goaway(21_000, 21_000), 0, 0);
    expect(connection.due).toBe(20_000);
    expect(connection.tick(20_000, 0)).toEqual([{ type: "ping" }]);
    expect(connection.due).toBe(21_000);
    expect(connection.tick(21_000, 0)).toEqual(["drop", "lost", "dial"]);
  });

  test("CLOSE-5: an answer to the ping does not put off the leaving", () => {
    const connection = live(0, 20_000);
    connection.received(goaway(30_000, 30_000), 100, 0);
    connection.tick(connection.due, 0);
    connection.received({ type: "pong" }, 20_200, 0);
    connection.tick(connection.due, 0);
    expect(connection.due).toBe(30_100);
    expect(connection.tick(30_100, 0)).toEqual(["drop", "lost", "dial"]);
  });

  test("CLOSE-5: a goaway that comes before the welcome counts all the same", () => {
    const connection = greeting();
    connection.received(goaway(1_000, 1_000), 0, 0);
    connection.received(welcome(), 10, 0);
    expect(connection.due).toBe(1_000);
    expect(connection.tick(1_000, 0)).toEqual(["drop", "lost", "dial"]);
  });

  test("CLOSE-5: a server that closes soon after its goaway is come back to at the time that was drawn", () => {
    const connection = live();
    connection.received(goaway(1_000, 5_000), 0, 0.25);
    connection.lost(1012, 10, 0);
    expect(connection.due).toBe(2_000);
    expect(connection.status).toBe("offline");
  });

  test("a goaway binds only the connection that it came on", () => {
    const connection = live();
    connection.received(goaway(1_000, 1_000), 0, 0);
    connection.tick(1_000, 0);
    connection.opened("1.2.3", undefined);
    connection.received(welcome({ ping_ms: 20_000 }), 1_100, 0);
    expect(connection.due).toBe(21_100);
  });

  test("a server that says goaway to a greeting and is then silent is not called a stranger", () => {
    const connection = greeting();
    connection.received(goaway(1_000, 1_000), 0, 0);
    connection.tick(1_000, 0);
    expect(connection.problem?.message).not.toBe("The server at this address does not speak Turnwire.");
  });
});

describe("coming back", () => {
  test.each([1000, 1001, 1006, 1011, 1012, 1013, 4500, 4501, 4503, 4508, 4510, 4513, 4529, 4999])(
    "CLOSE-4: it comes back after %d",
    (code) => {
      const connection = live();
      expect(connection.lost(code, 100, 0.5)).toEqual(["lost"]);
      expect(connection.status).toBe("offline");
      expect(connection.greeted).toBe(false);
      expect(connection.tick(connection.due, 0)).toEqual(["dial"]);
    },
  );

  test.each([4000, 4400, 4401, 4403, 4406, 4413, 4499, 1009])("CLOSE-4: it stays away after %d", (code) => {
    const connection = live();
    expect(connection.lost(code, 100, 0.5)).toEqual(["lost"]);
    expect(connection.status).toBe("refused");
    expect(connection.problem?.message).toBe(`The server refused this client (close code ${code}).`);
    expect(connection.due).toBe(Infinity);
    expect(connection.tick(1_000_000, 0)).toEqual([]);
    expect(connection.wake(1_000_000)).toEqual([]);
    expect(connection.want(1_000_000)).toEqual([]);
  });

  test("a person may send it back to a server that refused it", () => {
    const connection = live();
    connection.lost(4401, 100, 0);
    expect(connection.want(200, true)).toEqual(["dial"]);
    expect(connection.status).toBe("connecting");
  });

  test("asking again does not disturb a connection that is not refused", () => {
    expect(live().want(5, true)).toEqual([]);
  });

  test("CLOSE-2: the error before the close tells people why", () => {
    const refused = greeting();
    refused.received({ type: "error", error: errorBody({ message: "Your token is not valid." }) }, 1, 0);
    refused.lost(4401, 2, 0);
    expect(refused.problem?.message).toBe("Your token is not valid.");

    const late = live();
    late.received({ type: "error", error: errorBody({ message: "The server is full." }) }, 1, 0);
    late.lost(4503, 2, 0);
    expect(late.problem?.message).toBe("The server is full.");
  });

  test("an error that answers a command says nothing about the close that follows", () => {
    const connection = live();
    connection.received({ type: "error", reply_to: "c_1", error: errorBody({ message: "No." }) }, 1, 0);
    connection.lost(ABNORMAL, 2, 0);
    expect(connection.problem).toBeUndefined();
  });

  test("an error of one connection says nothing about the next one", () => {
    const connection = live();
    connection.received({ type: "error", error: errorBody({ message: "Full.", retry_after_ms: 9_000 }) }, 1, 0);
    connection.lost(4503, 2, 0);
    expect(waitAfter(connection, ABNORMAL, 0)).toBe(0);
    expect(connection.problem).toBeUndefined();
  });

  test("RATE-1: it never comes back before retry_after_ms", () => {
    const connection = live();
    const error = errorBody({ code: "rate_limited", retry: "same_frame", retry_after_ms: 4_000 });
    connection.received({ type: "error", error }, 1, 0);
    connection.lost(4529, 100, 0.5);
    expect(connection.due).toBe(4_100);
  });

  test("whoever leaves before the socket is open says why", () => {
    const connection = new Connection();
    connection.want(0);
    const why = errorBody({ message: "There is no token." });
    expect(connection.leave(1, 0, why)).toEqual(["drop", "lost"]);
    expect([connection.status, connection.problem]).toEqual(["offline", why]);
  });

  test("the wait grows to twice with each loss, up to 10 s, with full jitter below", () => {
    const ceilings = [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000];
    for (const chance of [0, 0.25, 0.5, ALMOST]) {
      const connection = new Connection();
      connection.want(0);
      connection.lost(ABNORMAL, 0, chance);
      const waits = [connection.due];
      while (waits.length < ceilings.length) waits.push(waitAfter(connection, ABNORMAL, chance));
      for (const [number, wait] of waits.entries()) expect(wait).toBeCloseTo(chance * (ceilings[number] as number), 3);
    }
  });

  test("the wait does not overflow however often it is lost", () => {
    const connection = new Connection();
    connection.want(0);
    connection.lost(ABNORMAL, 0, 0.5);
    for (let loss = 0; loss < 2_000; loss++) expect(waitAfter(connection, 1012, 0.5)).toBeLessThanOrEqual(5_000);
  });

  test("a connection that held for 5 s makes the waits short again", () => {
    const connection = new Connection();
    connection.want(0);
    connection.lost(ABNORMAL, 0, 0.5);
    for (let loss = 0; loss < 5; loss++) waitAfter(connection, 1012, 0.5);
    const back = connection.due;
    connection.tick(back, 0);
    connection.opened("1.2.3", undefined);
    connection.received(welcome(), back, 0);
    connection.lost(1012, back + 5_000, 0.5);
    expect(connection.due - (back + 5_000)).toBe(125);
  });

  test("one that was closed in order sooner does not: the server may be at its limit", () => {
    const connection = new Connection();
    connection.want(0);
    connection.lost(ABNORMAL, 0, 0.5);
    connection.tick(connection.due, 0);
    connection.opened("1.2.3", undefined);
    const back = connection.due;
    connection.received(welcome(), back, 0);
    connection.received(sessionOpened(), back, 0);
    connection.lost(1012, back + 4_999, 0.5);
    expect(connection.due - (back + 4_999)).toBe(250);
  });

  test("a cable that was pulled after a session was opened makes the waits short again", () => {
    const connection = new Connection();
    connection.want(0);
    connection.lost(ABNORMAL, 0, 0.5);
    waitAfter(connection, ABNORMAL, 0.5);
    connection.tick(connection.due, 0);
    connection.opened("1.2.3", undefined);
    const back = connection.due;
    connection.received(welcome(), back, 0);
    connection.received(sessionOpened(), back, 0);
    connection.lost(ABNORMAL, back + 10, 0.5);
    expect(connection.due - (back + 10)).toBe(125);
  });

  test("leaving because of an error that asks for it waits as long as that says, and tells people why", () => {
    const connection = live();
    connection.received(sessionOpened(), 10, 0);
    const draining = errorBody({
      code: "draining",
      message: "The server restarts.",
      retry: "reconnect",
      retry_after_ms: 3_000,
    });
    expect(connection.leave(50, 0.5, draining)).toEqual(["drop", "lost"]);
    expect(connection.problem?.message).toBe("The server restarts.");
    expect(connection.due).toBe(3_050);
  });

  test("a server that asks again and again to be left is left alone longer each time", () => {
    const connection = new Connection();
    connection.want(0);
    const waits: number[] = [];
    for (let time = 0; time < 5; time++) {
      connection.opened("1.2.3", undefined);
      connection.received(welcome(), 0, 0);
      connection.received(sessionOpened(), 0, 0);
      connection.leave(0, 0.5, errorBody({ retry: "reconnect" }));
      waits.push(connection.due);
      connection.tick(connection.due, 0);
    }
    expect(waits).toEqual([125, 250, 500, 1_000, 2_000]);
  });

  test("RATE-1: it never comes back before retry_after_ms, also where a goaway would allow it", () => {
    const connection = live();
    connection.received(goaway(100, 100), 0, 0);
    connection.received(
      { type: "error", error: errorBody({ code: "draining", retry: "reconnect", retry_after_ms: 4_000 }) },
      1,
      0,
    );
    connection.lost(4503, 10, 0);
    expect(connection.due).toBe(4_010);
  });

  test("leaving a connection by choice drops it and comes back as after a loss", () => {
    const connection = live();
    expect(connection.leave(50, 0.5)).toEqual(["drop", "lost"]);
    expect(connection.due).toBe(175);
  });
});
