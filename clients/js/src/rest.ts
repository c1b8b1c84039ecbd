/** What is at rest, over HTTP (docs/http.md): the list of sessions, and the turns before those that one was opened with. */

import { because, TurnwireError } from "./errors.js";
import { camel } from "./names.js";
import { type TurnState, turnsOf } from "./turn_state.js";
import type { SessionInfo, Sessions } from "./types.js";
import type { ErrorBody, TurnSnapshot } from "./wire.js";

const TIMEOUT_MS = 15_000;

type WireSession = Omit<SessionInfo, "id" | "createdAt" | "updatedAt"> & {
  session: string;
  created_at: number;
  updated_at: number;
};

type EarlierPage = { limit: number; before: string | undefined };

export type AtRest = Sessions & {
  /** Turns before the turn `before`, oldest first; `next` null when there are no more. */
  turns(id: string, page: EarlierPage): Promise<{ turns: TurnState[]; next: string | null }>;
};

/** `url` is the WebSocket's: the sessions are its neighbours. */
export function atRest(url: string, token: (() => Promise<string>) | undefined): AtRest {
  const base = url.replace(/^ws/, "http").replace(/ws\/?(\?.*)?$/, "sessions");

  async function call<Answer>(method: string, path: string, body?: object): Promise<Answer> {
    let response: Response;
    try {
      const headers = new Headers({ "content-type": "application/json" });
      if (token) headers.set("authorization", `Bearer ${await token()}`);
      const request = { method, headers, ...(body && { body: JSON.stringify(body) }) };
      response = await fetch(base + path, { ...request, signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (response.ok) return (response.status === 204 ? undefined : await response.json()) as Answer;
    } catch {
      throw new TurnwireError(because("The server cannot be reached.", "internal", "same_frame"));
    }
    const { status } = response;
    const problem = ((await response.json().catch(() => null)) ?? {}) as Partial<ErrorBody> & { detail?: string };
    const message = problem.detail ?? `The server answered with status ${status}.`;
    throw new TurnwireError({ ...because(message), ...problem, message }, status);
  }

  return {
    async list(page = {}) {
      type Listed = { sessions: WireSession[]; next: string | null };
      const { sessions, next } = await call<Listed>("GET", query(page));
      return { sessions: sessions.map(infoOf), next };
    },
    rename: (id, title) => call("PATCH", path(id), { title }),
    delete: (id) => call("DELETE", path(id)),
    async turns(id, page) {
      type Told = { turns: TurnSnapshot[]; next: string | null };
      const { turns, next } = await call<Told>("GET", `${path(id)}/turns${query(page)}`);
      try {
        return { turns: turnsOf(turns), next };
      } catch {
        throw new TurnwireError(because("The earlier messages came damaged."));
      }
    },
  };
}

function path(id: string): string {
  return `/${encodeURIComponent(id)}`;
}

function query(page: object): string {
  return `?${new URLSearchParams(camel(page) as Record<string, string>)}`;
}

function infoOf({ session: id, created_at, updated_at, ...rest }: WireSession): SessionInfo {
  return { id, ...rest, createdAt: new Date(created_at), updatedAt: new Date(updated_at) };
}
