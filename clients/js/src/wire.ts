/**
 * Made from protocol/schema by scripts/wire.js (`make schema`): the frames, as they travel. Fields that are not named
 * here may come and are to be ignored.
 */

export type Command = Hello | AuthRefresh | SessionOpen | SessionClose | TurnCreate | TurnCancel | TurnRespond | Ping;

export type ServerFrame =
  | TurnAccepted
  | TurnStarted
  | TurnRetrying
  | TurnDelta
  | TurnAsked
  | TurnResponded
  | TurnCancelling
  | TurnDone
  | TurnError
  | SessionUpdated
  | SessionDeleted
  | Welcome
  | SessionOpened
  | TurnSnapshot
  | AuthExpiring
  | Goaway
  | Error
  | Ack
  | Pong;

/** The first command of a connection, within 5 s. Answered by `welcome`. */
export interface Hello {
  id?: string | null;
  type: "hello";
  token?: string | null;
  client?: ClientInfo | null;
  features?: string[];
}

export interface ClientInfo {
  name: string;
  version: string;
}

/** A fresh token of the same user; another user's closes the connection with 4403. `ack` carries `expires_at`. */
export interface AuthRefresh {
  id?: string | null;
  type: "auth.refresh";
  token: string;
}

/** Follow a session, from `after` on or from a snapshot. Answered by `session.opened`. */
export interface SessionOpen {
  id?: string | null;
  type: "session.open";
  session: string;
  after?: Cursor | null;
  history?: number | null;
}

/** Where a reader stands: the last numbered frame that it has. `turn` is null after a session frame. */
export interface Cursor {
  gen: string | null;
  seq: number;
  turn?: string | null;
}

/** Stop following a session. Its running turn goes on. */
export interface SessionClose {
  id?: string | null;
  type: "session.close";
  session: string;
}

/**
 * One user input. Idempotent: the same turn id with the same content is accepted once and acknowledged again.
 *
 * `parent` absent means the session's newest turn, null means a new root. `again` regenerates the answer of an
 * earlier turn: that turn's input is used, so `input` must be empty then.
 */
export interface TurnCreate {
  id?: string | null;
  type: "turn.create";
  session: string;
  turn: string;
  input?: (TextInput | ImageInput)[];
  parent?: string | null;
  again?: string | null;
  model?: string | null;
  params?: Record<string, unknown> | null;
  tools?: Tool[] | null;
  response_format?: Record<string, unknown> | null;
  on_busy?: "reject" | "queue" | "interrupt";
  on_disconnect?: "continue" | "cancel";
  cancel_after_ms?: number | null;
}

/** Text; its size is counted as it stands in JSON, escapes included, in either codec. */
export interface TextInput {
  type: "text";
  text: string;
}

/** An image, base64 with padding and without line breaks (RFC 4648 section 4). */
export interface ImageInput {
  type: "image";
  media_type: "image/png" | "image/jpeg" | "image/gif" | "image/webp";
  data: string;
}

/** A function that the model may call; `parameters` is a JSON Schema. */
export interface Tool {
  name: string;
  description?: string | null;
  parameters?: Record<string, unknown> | null;
}

/** Stop a turn from any device, also one that the server has not seen yet. `ack` carries `result`. */
export interface TurnCancel {
  id?: string | null;
  type: "turn.cancel";
  session: string;
  turn: string;
  reason?: string | null;
}

/** The answer to a `turn.asked`; the first one wins. */
export interface TurnRespond {
  id?: string | null;
  type: "turn.respond";
  session: string;
  turn: string;
  request: string;
  value: unknown;
}

/** Answered by `pong`. */
export interface Ping {
  id?: string | null;
  type: "ping";
}

/** The turn is stored. `parent` null marks a root of the conversation's tree. */
export interface TurnAccepted {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.accepted";
  input: (TextInput | ImageInput)[];
  parent: string | null;
  again?: string;
  model: string;
  author: string;
  state: "running" | "queued";
}

/** An upstream request of step `step` (from 1) begins; `attempt` counts from 1 within the step. */
export interface TurnStarted {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.started";
  step: number;
  attempt: number;
  model: string;
}

/** The step failed before its first byte; attempt `attempt` begins in `delay_ms`. `code` says what went wrong. */
export interface TurnRetrying {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.retrying";
  attempt: number;
  delay_ms: number;
  code: string;
}

/**
 * A piece of an answer. `first_seq` is there only on a merged delta, which stands for first_seq to seq.
 *
 * A part's first delta adds what names it (`call` and `name` for tool_call, `name` for data); its last one carries
 * `last`.
 */
export interface TurnDelta {
  type: "turn.delta";
  session: string;
  turn: string;
  seq: number;
  first_seq?: number;
  part: number;
  kind: "text" | "reasoning" | "refusal" | "tool_call" | "data";
  text: string;
  call?: string;
  name?: string;
  last?: true;
}

/** The turn is parked until `turn.respond` names this request. */
export interface TurnAsked {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.asked";
  request: string;
  kind: "tool_result" | "approval";
  detail: Record<string, unknown>;
}

/** The answer to a request is stored; `by` names the user who gave it. */
export interface TurnResponded {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.responded";
  request: string;
  by: string;
}

/** A cancel is stored; the terminal follows. */
export interface TurnCancelling {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.cancelling";
  by: string;
}

/** Terminal: the answer ended. `upstream_stopped` false says that a cancel could not close the provider's socket. */
export interface TurnDone {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.done";
  finish_reason: "stop" | "length" | "cancelled" | "content_filter" | "tool_calls" | "budget";
  usage: Usage;
  cost?: Cost;
  model: string;
  attempts: number;
  first_token_ms: number | null;
  duration_ms: number;
  parts: PartSummary[];
  upstream_stopped?: boolean;
}

/** Tokens of one turn, all its steps together. `estimated` where the provider did not say. */
export interface Usage {
  input_tokens: number;
  cached_input_tokens?: number;
  output_tokens: number;
  reasoning_tokens?: number;
  estimated: boolean;
}

/** What a turn has cost. */
export interface Cost {
  amount: string;
  currency: string;
}

/** What a terminal says of each part: its length and zlib CRC-32, both over the UTF-8 of its whole text. */
export interface PartSummary {
  part: number;
  kind: "text" | "reasoning" | "refusal" | "tool_call" | "data";
  bytes: number;
  crc32: number;
}

/** Terminal: the answer failed. `partial` says whether anything of it was sent; it is kept. */
export interface TurnError {
  session: string;
  turn: string;
  seq: number;
  at: number;
  type: "turn.error";
  error: ErrorBody;
  usage?: Usage;
  cost?: Cost;
  partial: boolean;
  parts: PartSummary[];
}

/** What went wrong, safe to show. `retry` says what helps; `retry_after_ms` from when. */
export interface ErrorBody {
  code:
    | "bad_frame"
    | "too_large"
    | "unsupported"
    | "unauthenticated"
    | "token_expired"
    | "forbidden"
    | "not_found"
    | "turn_conflict"
    | "busy"
    | "rate_limited"
    | "quota_exceeded"
    | "overloaded"
    | "draining"
    | "upstream_unavailable"
    | "upstream_rejected"
    | "upstream_timeout"
    | "upstream_truncated"
    | "upstream_malformed"
    | "node_lost"
    | "store_lost"
    | "queue_expired"
    | "input_expired"
    | "invalid_output"
    | "internal";
  message: string;
  retry: "none" | "same_frame" | "new_turn" | "reconnect";
  retry_after_ms?: number;
  upgrade_url?: string;
}

/** The session's title or metadata changed; both are sent whole. */
export interface SessionUpdated {
  session: string;
  seq: number;
  at: number;
  type: "session.updated";
  title: string | null;
  metadata: Record<string, unknown>;
}

/** The session is gone; for its unfinished turns this is the terminal. */
export interface SessionDeleted {
  session: string;
  seq: number;
  at: number;
  type: "session.deleted";
}

/** Answers `hello`. The first of `models` is the default. */
export interface Welcome {
  type: "welcome";
  reply_to?: string;
  connection: string;
  user: string;
  features: string[];
  models: string[];
  limits: Limits;
  ping_ms: number;
  terminal_within_ms: number;
}

/** What this server allows a connection, see each field's unit in its name; and what is left to its user. */
export interface Limits {
  frame_bytes_max: number;
  input_bytes_max: number;
  frames_per_s: number;
  bytes_per_s: number;
  sessions_open_max: number;
  turns_running_max: number;
  history_turns_max: number;
  left?: Left;
}

/**
 * What is left of a user's quotas, without what unfinished turns have claimed; absent where there is no limit.
 *
 * Days and months are those of UTC.
 */
export interface Left {
  turns_per_minute?: number;
  turns_running?: number;
  tokens_per_day?: number;
  tokens_per_month?: number;
  usd_per_day?: string;
  usd_per_month?: string;
}

/**
 * A cursor stands at {gen, seq, turn}; frames go on at seq + 1.
 *
 * `replay`: nothing changes in what the client has. `snapshot`: `turns` turn.snapshot frames follow, which the client
 * takes in place of all it had of the session. Sent unasked when the log does not go on from a live cursor.
 */
export interface SessionOpened {
  type: "session.opened";
  reply_to?: string;
  session: string;
  gen: string | null;
  seq: number;
  turn: string | null;
  mode: "replay" | "snapshot";
  turns: number;
}

/** One turn as of session.opened.seq. `continued` marks a further piece of the turn before: append it. */
export interface TurnSnapshot {
  type: "turn.snapshot";
  session: string;
  turn: string;
  state: "queued" | "running" | "parked" | "done" | "error";
  parent: string | null;
  again?: string;
  model: string;
  author: string;
  at: number;
  input: (TextInput | ImageInput)[];
  parts: Part[];
  pending: Ask[];
  terminal?: TurnDone | TurnError;
  continued?: true;
}

/** One strand of an answer, as far as it has come. */
export interface Part {
  part: number;
  kind: "text" | "reasoning" | "refusal" | "tool_call" | "data";
  text: string;
  call?: string;
  name?: string;
  last?: boolean;
}

/** Something a parked turn waits for. */
export interface Ask {
  request: string;
  kind: "tool_result" | "approval";
  detail: Record<string, unknown>;
}

/** The token ends at `expires_at`; auth.refresh keeps the connection. */
export interface AuthExpiring {
  type: "auth.expiring";
  expires_at: number;
}

/** The server will close; reconnect at a random time between min and max. */
export interface Goaway {
  type: "goaway";
  reason: string;
  reconnect_min_ms: number;
  reconnect_max_ms: number;
}

/** A command was refused, or what follows is the end of the connection. */
export interface Error {
  type: "error";
  reply_to?: string;
  session?: string;
  turn?: string;
  error: ErrorBody;
}

/** A command was carried out. Which fields are there depends on the command: see docs/protocol.md. */
export interface Ack {
  type: "ack";
  reply_to?: string;
  session?: string;
  turn?: string;
  seq?: number;
  duplicate?: boolean;
  result?: "cancelling" | "already_done" | "pending";
  expires_at?: number;
  left?: Left;
}

/** Answers `ping`. */
export interface Pong {
  type: "pong";
  reply_to?: string;
}
