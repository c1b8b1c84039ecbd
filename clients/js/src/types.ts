/**
 * What people who use the client see: conversations as values, camelCase, immutable. The wire's own frames are in wire.ts
 * and appear here only in `onFrame`.
 */

import type { Command, Cost as WireCost, ErrorBody, ImageInput, ServerFrame, TextInput } from "./wire.js";

export type { ImageInput, TextInput } from "./wire.js";
export type InputPart = TextInput | ImageInput;
export type Cost = WireCost;

export type FinishReason = "stop" | "length" | "cancelled" | "content_filter" | "tool_calls" | "budget";

export type Usage = {
  readonly inputTokens: number;
  readonly cachedInputTokens?: number;
  readonly outputTokens: number;
  readonly reasoningTokens?: number;
  /** The provider did not say; these are Turnwire's own counts. */
  readonly estimated: boolean;
};

/**
 * `sending` not acknowledged yet (offline, it waits in the outbox) · `queued` behind another turn · `running` ·
 * `parked` waits for `respond` · `stopping` a cancel is stored · then one of `done`, `cancelled`, `error`.
 */
export type Status = "sending" | "queued" | "running" | "parked" | "stopping" | "done" | "cancelled" | "error";

export type Part =
  | { readonly kind: "text" | "reasoning" | "refusal"; readonly text: string; readonly complete: boolean }
  | {
      readonly kind: "tool_call";
      readonly call: string;
      readonly name: string;
      readonly argsText: string;
      /** The arguments, once they are complete and if they are JSON. */
      readonly args?: unknown;
      readonly complete: boolean;
    }
  | { readonly kind: "data"; readonly name: string; readonly value?: unknown; readonly complete: boolean };

/** What a parked turn waits for; answer it with `session.respond`. */
export type Ask = {
  readonly turn: string;
  readonly request: string;
  readonly kind: "tool_result" | "approval";
  readonly detail: Readonly<Record<string, unknown>>;
};

/** `code` and `retry` are those of docs/protocol.md, section 10; `message` is a sentence for users. */
export type TurnError = {
  readonly code: ErrorBody["code"];
  readonly message: string;
  readonly retry: ErrorBody["retry"];
  readonly retryAfterMs?: number;
  readonly upgradeUrl?: string;
};

/** One input and its answer. */
export type Turn = {
  readonly id: string;
  /** The turn that it follows; null for a root of the conversation. */
  readonly parent: string | null;
  /** The loaded turns with the same parent, this one among them, oldest first: the branches at this place. */
  readonly siblings: readonly string[];
  /** The turn that this one answers anew. */
  readonly again?: string;
  readonly input: readonly InputPart[];
  readonly parts: readonly Part[];
  /** What still waits for an answer of yours. */
  readonly asks: readonly Ask[];
  /** Its text parts, joined. */
  readonly text: string;
  readonly status: Status;
  readonly model?: string;
  /** While an attempt failed before its first byte and the next one has not begun. */
  readonly retrying?: { readonly attempt: number; readonly delayMs: number; readonly code: string } | undefined;
  readonly finishReason?: FinishReason;
  readonly usage?: Usage;
  readonly cost?: Cost;
  readonly firstTokenMs?: number;
  readonly durationMs?: number;
  readonly error?: TurnError;
  /** The server does not have it, and `retrySend` or `discard` decides about it. Only with status `error`. */
  readonly unsent?: true;
  /** It ended, and each part had the length and checksum that the server had written down. */
  readonly proved?: true;
  readonly createdAt: Date;
};

export type ConnectionStatus = "idle" | "connecting" | "live" | "offline" | "refused";

/** A session as of now. Immutable: the same object until something changed, and so is each turn in it. */
export type Snapshot = {
  /** The visible branch, oldest first. */
  readonly turns: readonly Turn[];
  /** `loadEarlier` would find more. */
  readonly hasEarlier: boolean;
  /** A turn is running, queued or parked. */
  readonly busy: boolean;
  /** The server has told what the session holds; until then `turns` may be missing some. */
  readonly loaded: boolean;
  readonly connection: ConnectionStatus;
  /** Why the connection is `offline` or `refused`, or what is wrong with this session: a sentence for users. */
  readonly problem?: string;
  /** As last told by the server; undefined when it was not told since the session was opened. */
  readonly title?: string | null;
  /** The session was deleted; what was sent to it cannot be answered any more. */
  readonly deleted: boolean;
};

/** A piece of an answer's text. `reset`: what was told of this turn before is void (the server lost it), it begins anew. */
export type Delta = { readonly part: number; readonly text: string; readonly reset?: true };

export type Outcome =
  | { readonly ok: true; readonly turn: Turn }
  | { readonly ok: false; readonly turn: Turn; readonly error: TurnError };

/** A turn that this client sent. Iterating gives the text of its text parts as it comes, from the first word on. */
export interface TurnHandle extends AsyncIterable<Delta> {
  readonly id: string;
  /** Never rejects. `ok` is false for `turn.error`, for what was refused, and once the client was closed. */
  readonly done: Promise<Outcome>;
  cancel(): Promise<void>;
}

export type SendOptions = {
  /** A name from `turnwire.models`; absent: the server's default. */
  model?: string;
  params?: Record<string, unknown>;
  tools?: { name: string; description?: string; parameters?: Record<string, unknown> }[];
  responseFormat?: Record<string, unknown>;
  /** What to do while another turn runs; the server's default is `reject`. */
  onBusy?: "reject" | "queue" | "interrupt";
  /** `cancel`: stop when nobody has watched the session for `cancelAfterMs`. */
  onDisconnect?: "continue" | "cancel";
  cancelAfterMs?: number;
  /** The turn to follow; null begins a new root. Absent: the last one of the visible branch. */
  parent?: string | null;
};

export interface Session {
  readonly id: string;
  getSnapshot(): Snapshot;
  /** Told at most once an animation frame. The first subscriber opens the session, the last to leave closes it. */
  subscribe(listener: () => void): () => void;
  /** In the snapshot at once, and on its way when there is a connection. */
  send(input: string | InputPart[], options?: SendOptions): TurnHandle;
  /** Ask otherwise: a sibling of `turn` with this input. */
  edit(turn: string, input: string | InputPart[], options?: SendOptions): TurnHandle;
  /** Answer anew: a sibling of `turn` with its input. */
  regenerate(turn: string, options?: SendOptions): TurnHandle;
  /** Send an unsent turn again, or forget it. */
  retrySend(turn: string): void;
  discard(turn: string): void;
  /** Answer what a parked turn asked; the first answer wins. Rejects with TurnwireError. */
  respond(ask: Ask, value: unknown): Promise<void>;
  /** Make the branch with this turn the visible one. */
  showBranch(turn: string): void;
  /** Cancel every turn of the session that has not ended, queued ones first. */
  stop(): Promise<void>;
  /** Put the page before the oldest loaded turn in front. Rejects with TurnwireError. */
  loadEarlier(): Promise<void>;
}

export type SessionInfo = {
  readonly id: string;
  readonly title: string | null;
  /** How the first input begins; null when it has no text. */
  readonly preview: string | null;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly createdAt: Date;
  readonly updatedAt: Date;
};

export type Page = { limit?: number; before?: string };
/** `next` is the `before` of the following page; null on the last one. */
export type SessionPage = { readonly sessions: readonly SessionInfo[]; readonly next: string | null };

export interface Sessions {
  /** Newest first. All three reject with TurnwireError. */
  list(page?: Page): Promise<SessionPage>;
  rename(id: string, title: string | null): Promise<void>;
  delete(id: string): Promise<void>;
}

export type OnFrame = (direction: "in" | "out", frame: ServerFrame | Command) => void;

export type Options = {
  /** Asked before each connection and each HTTP call. */
  token?: () => Promise<string>;
  /** Where messages wait that are not acknowledged; default: sessionStorage where there is one. */
  outbox?: Pick<Storage, "getItem" | "setItem" | "removeItem"> | false;
  /** Sees each frame as it passes, as the wire has it. */
  onFrame?: OnFrame;
  /** Faults of the server or of this client that no promise tells, each kind once; default: console.error. */
  onFault?: (message: string) => void;
  /** Another WebSocket class, for environments without one and for tests. */
  webSocket?: new (url: string, protocols: string[]) => WebSocket;
};
