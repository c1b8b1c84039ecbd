/**
 * What most tests begin with: a scripted server, clients of it that are closed at the end, and ways to wait for what a
 * client shows. Chance is fixed at zero, so that a client comes back at once; no fault may come unless a test takes it.
 */

import { test as base, expect, vi } from "vitest";
import {
  type Delta,
  type OnFrame,
  type Options,
  type Session,
  type Snapshot,
  Turnwire,
  type TurnHandle,
} from "../../src/index.js";
import type { Command, ErrorBody, ServerFrame, SessionOpen, Error as WireError } from "../../src/wire.js";
import { type Peer, ScriptedServer, WELCOME } from "./scripted_server.js";
import { Story } from "./story.js";

type Tools = {
  server: ScriptedServer;
  /** A client of the server, or of another address. */
  client: (options?: Options, url?: string) => Turnwire;
};

export const test = base.extend<Tools>({
  server: async ({ task: _ }, use) => {
    vi.spyOn(Math, "random").mockReturnValue(0);
    const server = await ScriptedServer.start();
    await use(server);
    await server.stop();
    vi.useRealTimers();
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  },
  client: async ({ server }, use) => {
    const made: Turnwire[] = [];
    const faults: string[] = [];
    await use((options = {}, url = server.url) => {
      const turnwire = new Turnwire(url, { onFault: (message) => faults.push(message), ...options });
      made.push(turnwire);
      return turnwire;
    });
    for (const turnwire of made) turnwire.close();
    expect(faults).toEqual([]);
  },
});

/** Until the session's snapshot is as wanted; looks again whenever its listeners are told. */
export function shows(session: Session, wanted: (snapshot: Snapshot) => boolean): Promise<Snapshot> {
  return new Promise((resolve) => {
    const look = (): void => {
      const snapshot = session.getSnapshot();
      if (!wanted(snapshot)) return;
      // Left only once this listener is known, also when the very first look is enough.
      queueMicrotask(() => leave());
      resolve(snapshot);
    };
    const leave = session.subscribe(look);
    look();
  });
}

/** Until the client is as wanted. */
export function becomes(turnwire: Turnwire, wanted: (turnwire: Turnwire) => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!wanted(turnwire)) return;
      queueMicrotask(() => leave());
      resolve();
    };
    const leave = turnwire.subscribe(look);
    look();
  });
}

export const loaded = ({ loaded }: Snapshot): boolean => loaded;

/** Greet the next connection and answer its opening of this session. */
export async function opened(server: ScriptedServer, story: Story): Promise<Peer> {
  const peer = await server.accepted();
  await peer.greet();
  await story.answerOpen(peer);
  return peer;
}

/** A session that is watched and loaded, and the connection that it is on. */
export async function watched(server: ScriptedServer, turnwire: Turnwire, story: Story = new Story("s_1")) {
  const session = turnwire.session(story.session);
  const leave = session.subscribe(() => {});
  const peer = await opened(server, story);
  await shows(session, loaded);
  return { session, leave, peer, story };
}

/** All that a handle's iterator gives, as one text; begins anew at a reset. */
export async function read(handle: TurnHandle): Promise<string> {
  let text = "";
  for await (const delta of handle) text = delta.reset ? "" : text + delta.text;
  return text;
}

/** The deltas one by one. */
export async function readAll(handle: TurnHandle): Promise<Delta[]> {
  const deltas: Delta[] = [];
  for await (const delta of handle) deltas.push(delta);
  return deltas;
}

/** What a page keeps for its reloads. */
export class MemoryStorage {
  readonly kept = new Map<string, string>();

  getItem(name: string): string | null {
    return this.kept.get(name) ?? null;
  }

  setItem(name: string, value: string): void {
    this.kept.set(name, value);
  }

  removeItem(name: string): void {
    this.kept.delete(name);
  }
}

/** The frames of a client as `onFrame` shows them. */
export class Frames {
  readonly seen: ["in" | "out", ServerFrame | Command][] = [];
  #look: () => void = () => {};

  readonly onFrame: OnFrame = (direction, frame) => {
    this.seen.push([direction, frame]);
    this.#look();
  };

  /** Until this client has taken the nth frame of this type from the server. */
  came(type: ServerFrame["type"], count = 1): Promise<void> {
    return new Promise((resolve) => {
      this.#look = () => {
        // The frame is shown before it is acted on.
        if (this.seen.filter(([way, frame]) => way === "in" && frame.type === type).length >= count) queueMicrotask(resolve);
      };
      this.#look();
    });
  }
}

/** A WebSocket without a network: the test opens, closes and speaks for it. */
export class StubSocket {
  static told: (socket: StubSocket) => void = () => {};
  readonly url: string;
  readonly protocols: string[];
  readyState = 0;
  readonly sent: Command[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;

  constructor(url: string, protocols: string[]) {
    this.url = url;
    this.protocols = protocols;
    StubSocket.told(this);
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data) as Command);
  }

  close(): void {
    this.readyState = 3;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(...frames: ServerFrame[]): void {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  lose(code = 1006): void {
    this.close();
    this.onclose?.({ code });
  }
}

/** A client's options that give it such sockets. */
export const stubbed = { webSocket: StubSocket as unknown as NonNullable<Options["webSocket"]> };

/** The next stub socket that a client makes; to be asked for before it is made. */
export function dialed(): Promise<StubSocket> {
  return new Promise((resolve) => {
    StubSocket.told = resolve;
  });
}

/** What a browser's page has and Node has not, as far as the client looks at it. */
export function stubPage(visibilityState: "visible" | "hidden") {
  const document = { visibilityState };
  const window = new EventTarget();
  const draws: (() => void)[] = [];
  vi.stubGlobal("document", document);
  vi.stubGlobal("window", window);
  vi.stubGlobal("requestAnimationFrame", (draw: () => void) => draws.push(draw));
  return {
    document,
    window,
    /** The person looks at the page, or away. */
    look(state: "visible" | "hidden"): void {
      document.visibilityState = state;
      window.dispatchEvent(new Event("visibilitychange"));
    },
    /** The browser draws a frame. */
    draw(): void {
      for (const draw of draws.splice(0)) draw();
    },
  };
}

/** A promise that the test settles. */
export function held<Value>() {
  let resolve: (value: Value) => void = () => {};
  let reject: (reason: Error) => void = () => {};
  const promise = new Promise<Value>((settle, fail) => {
    resolve = settle;
    reject = fail;
  });
  return { promise, resolve, reject };
}

/** A session of a client of stub sockets, watched and about to be opened. */
export async function opening(turnwire: Turnwire, id = "s_1") {
  const session = turnwire.session(id);
  const redialed = dialed();
  const leave = session.subscribe(() => {});
  const socket = await redialed;
  socket.open();
  socket.say(WELCOME);
  return { session, leave, socket, open: socket.sent[1] as SessionOpen };
}

/** The refusal of a command. */
export function refusalOf(command: Command | undefined, error: Partial<ErrorBody>): WireError {
  const { id, session, turn } = command as { id: string; session: string; turn?: string };
  const body: ErrorBody = { code: "overloaded", message: "Not now.", retry: "none", ...error };
  return { type: "error", reply_to: id, session, ...(turn && { turn }), error: body };
}
