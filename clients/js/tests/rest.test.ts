/** What is at rest, over HTTP: the list of sessions, earlier turns, and what is said where a call fails. */

import { describe, expect, vi } from "vitest";
import { TurnwireError } from "../src/index.js";
import type { TurnSnapshot } from "../src/wire.js";
import { shows, test, watched } from "./support/chat.js";
import { Story } from "./support/story.js";

const LISTED = {
  session: "s_1",
  title: "Sky",
  preview: null,
  metadata: { pinned: true },
  created_at: 1_000,
  updated_at: 2_000,
};
const ONE = {
  id: "s_1",
  title: "Sky",
  preview: null,
  metadata: { pinned: true },
  createdAt: new Date(1_000),
  updatedAt: new Date(2_000),
};

describe("sessions", () => {
  test("list gives a page of them and where the next begins", async ({ server, client }) => {
    const { sessions } = client();
    const first = sessions.list();
    const call = await server.called();
    expect(call).toMatchObject({ method: "GET", path: "/v1/sessions", query: {} });
    expect(call.headers).not.toHaveProperty("authorization");
    call.answer(200, { sessions: [LISTED], next: "p 2&x" });
    expect(await first).toEqual({ sessions: [ONE], next: "p 2&x" });

    const second = sessions.list({ limit: 7, before: "p 2&x" });
    const next = await server.called();
    expect(next.query).toEqual({ limit: "7", before: "p 2&x" });
    next.answer(200, { sessions: [], next: null });
    expect(await second).toEqual({ sessions: [], next: null });
  });

  test("what a page leaves undefined is not asked for", async ({ server, client }) => {
    // People whose compiler is less strict pass `before: next ?? undefined`.
    const listed = client().sessions.list({ limit: 5, before: undefined } as never);
    const call = await server.called();
    call.answer(200, { sessions: [], next: null });
    await listed;
    expect(call.query).toEqual({ limit: "5" });
  });

  test("rename and delete name the session, whatever its id", async ({ server, client }) => {
    const { sessions } = client({ token: async () => "secret" });
    const renamed = sessions.rename("s/1?", "Blue sky");
    const patch = await server.called();
    expect(patch).toMatchObject({ method: "PATCH", path: "/v1/sessions/s%2F1%3F", body: '{"title":"Blue sky"}' });
    expect(patch.headers).toMatchObject({ "content-type": "application/json", authorization: "Bearer secret" });
    patch.answer(200, LISTED);
    await renamed;

    const untitled = sessions.rename("s_1", null);
    const clear = await server.called();
    expect(clear.body).toBe('{"title":null}');
    clear.answer(200, LISTED);
    await untitled;

    const deleted = sessions.delete("s_1");
    const remove = await server.called();
    expect(remove).toMatchObject({ method: "DELETE", path: "/v1/sessions/s_1", body: "" });
    remove.answer(204);
    await deleted;
  });

  test("a token is asked for each call", async ({ server, client }) => {
    let count = 0;
    const { sessions } = client({ token: async () => `token ${++count}` });
    for (const token of ["token 1", "token 2"]) {
      const listed = sessions.list();
      const call = await server.called();
      expect(call.headers.authorization).toBe(`Bearer ${token}`);
      call.answer(200, { sessions: [], next: null });
      await listed;
    }
  });

  test.for(["/v1/ws", "/v1/ws/", "/v1/ws?room=1", "/v1/ws/?a=/ws#frag"])(
    "calls go beside %s",
    async (path, { server, client }) => {
      const listed = client({}, server.url.replace("/v1/ws", path)).sessions.list();
      const call = await server.called();
      expect(call.path).toBe("/v1/sessions");
      call.answer(200, { sessions: [], next: null });
      await listed;
    },
  );
});

describe("failures", () => {
  test("problem details become a TurnwireError", async ({ server, client }) => {
    const renamed = client().sessions.rename("s_1", "x");
    const { status, code, detail, retry, retry_after_ms } = {
      status: 429,
      code: "rate_limited",
      detail: "You are too fast; wait a moment.",
      retry: "same_frame",
      retry_after_ms: 1_500,
    };
    (await server.called()).answer(status, {
      type: "about:blank",
      title: "Too fast",
      status,
      detail,
      code,
      retry,
      retry_after_ms,
    });
    const error: unknown = await renamed.catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(TurnwireError);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: "TurnwireError", code, message: detail, retry, retryAfterMs: 1_500, status });
  });

  test.for(["<html>Bad gateway</html>", "", "null", '"oops"', "[]"])(
    "an error page of %s gives one sentence",
    async (page, { server, client }) => {
      const listed = client().sessions.list();
      (await server.called()).answerRaw(502, page);
      const error: unknown = await listed.catch((caught: unknown) => caught);
      expect(error).toBeInstanceOf(TurnwireError);
      expect(error).toMatchObject({
        code: "internal",
        retry: "none",
        status: 502,
        message: "The server answered with status 502.",
      });
    },
  );

  test("a server that cannot be reached gives one sentence", async ({ server, client }) => {
    const { sessions } = client();
    const cut = sessions.list();
    (await server.called()).cut();
    await expect(cut).rejects.toMatchObject({
      name: "TurnwireError",
      message: "The server cannot be reached.",
      retry: "same_frame",
    });
    const gone = client({}, "ws://127.0.0.1:1/v1/ws").sessions.delete("s_1");
    await expect(gone).rejects.toMatchObject({ message: "The server cannot be reached.", status: undefined });
  });

  test("an answer that is none, as of a captive portal, gives a TurnwireError", async ({ server, client }) => {
    const listed = client().sessions.list();
    (await server.called()).answerRaw(200, "<html>Welcome to our hotel</html>");
    await expect(listed).rejects.toThrow(TurnwireError);
  });

  test("without a token to be had nothing is called", async ({ client }) => {
    const fetched = vi.spyOn(globalThis, "fetch");
    const { sessions } = client({ token: async () => Promise.reject(new Error("signed out")) });
    await expect(sessions.list()).rejects.toThrow(TurnwireError);
    expect(fetched).not.toHaveBeenCalled();
  });

  test("a server that does not answer is given up after 15 s", async ({ server, client }) => {
    const timeout = vi.spyOn(AbortSignal, "timeout");
    const giveUp = new AbortController();
    timeout.mockReturnValue(giveUp.signal);
    const listed = client().sessions.list();
    await server.called();
    giveUp.abort();
    await expect(listed).rejects.toThrow("The server cannot be reached.");
    expect(timeout).toHaveBeenCalledWith(15_000);
  });
});

describe("earlier turns", () => {
  test("loadEarlier puts the page before the oldest turn in front", async ({ server, client }) => {
    const { session, peer, story } = await watched(server, client());
    expect(session.getSnapshot().hasEarlier).toBe(false);
    story.exchange("t_3", "Three?", "Three.", "t_2");
    peer.say(...story.snapshot());
    await shows(session, ({ hasEarlier }) => hasEarlier);

    const loading = session.loadEarlier();
    const call = await server.called();
    expect(call).toMatchObject({ method: "GET", path: "/v1/sessions/s_1/turns", query: { limit: "20", before: "t_3" } });
    call.answer(200, { turns: [snapshotOf("t_2", "Two.", "t_1")], next: "t_2" });
    await loading;
    expect(session.getSnapshot()).toMatchObject({
      hasEarlier: true,
      turns: [{ id: "t_2", text: "Two.", proved: true }, { id: "t_3" }],
    });

    const last = session.loadEarlier();
    const second = await server.called();
    expect(second.query["before"]).toBe("t_2");
    second.answer(200, { turns: [snapshotOf("t_1", "One.", null)], next: null });
    await last;
    const { turns, hasEarlier } = session.getSnapshot();
    expect(turns.map(({ text }) => text)).toEqual(["One.", "Two.", "Three."]);
    expect(hasEarlier).toBe(false);
  });

  test("listeners hear of it", async ({ server, client }) => {
    const { session } = await watched(server, client());
    const loading = session.loadEarlier();
    const call = await server.called();
    expect(call.query).toEqual({ limit: "20" });
    call.answer(200, { turns: [snapshotOf("t_1", "One.", null)], next: null });
    await loading;
    await shows(session, ({ turns }) => turns.length === 1);
  });

  test("a long turn may come in pieces", async ({ server, client }) => {
    const { session } = await watched(server, client());
    const whole = snapshotOf("t_1", "One and more.", null);
    const { terminal, ...unended } = whole;
    const loading = session.loadEarlier();
    (await server.called()).answer(200, {
      turns: [
        { ...unended, parts: [{ part: 0, kind: "text", text: "One " }] },
        { ...unended, continued: true, input: [], parts: [{ part: 0, kind: "text", text: "and more." }], terminal },
      ],
      next: null,
    });
    await loading;
    expect(session.getSnapshot().turns).toMatchObject([{ text: "One and more.", status: "done", proved: true }]);
  });

  test("turns whose checksum is wrong, and such as make no sense, are not taken", async ({ server, client }) => {
    const { session } = await watched(server, client());
    const damaged = snapshotOf("t_1", "One.", null);
    damaged.parts = [{ part: 0, kind: "text", text: "Two." }];
    for (const turns of [[damaged], [{ ...damaged, parts: "none" }]]) {
      const loading = session.loadEarlier();
      (await server.called()).answer(200, { turns, next: null });
      await expect(loading).rejects.toMatchObject({ name: "TurnwireError", message: "The earlier messages came damaged." });
    }
    expect(session.getSnapshot().turns).toEqual([]);
  });

  test("a session that is gone says so", async ({ server, client }) => {
    const { session } = await watched(server, client());
    const loading = session.loadEarlier();
    (await server.called()).answer(404, {
      title: "Not found",
      status: 404,
      detail: "There is no such chat.",
      code: "not_found",
      retry: "none",
    });
    await expect(loading).rejects.toMatchObject({ code: "not_found", status: 404, message: "There is no such chat." });
  });
});

/** One whole turn as the server keeps it. */
function snapshotOf(turn: string, answer: string, parent: string | null): TurnSnapshot {
  const story = new Story("s_1");
  story.exchange(turn, "?", answer, parent);
  return story.snapshot()[1] as TurnSnapshot;
}
