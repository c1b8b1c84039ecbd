// The plain page: one session, whose id is in the address, so that a reload resumes it. It keeps the client rule of
// docs/protocol.md: apply a frame only if it continues the cursor, else open again; take a snapshot only once it is
// whole; believe an end only if it proves every part. What a model says goes into the page as text, never as markup.

const element = (id) => document.getElementById(id);
const randomId = (prefix) => prefix + crypto.getRandomValues(new Uint32Array(4)).join("").slice(0, 24);

const BACKOFF_MS_MAX = 8000;
const PONG_MS = 3000;
const ENDINGS = { stop: "", cancelled: "stopped", length: "cut off at the length limit" };

let session = location.hash.slice(1);
if (!/^[A-Za-z0-9_-]{1,64}$/.test(session)) {
  session = randomId("s_");
  history.replaceState(null, "", `#${session}`);
}
addEventListener("hashchange", () => location.reload());
element("fresh").href = `#${randomId("s_")}`;

let socket = null;
let tries = 0;
let cursor = null; // {gen, seq, turn}
let opening = null; // the id of the open that is unanswered: until its answer, the session's frames are dropped
let opens = 0;
let staged = null; // a snapshot on its way: its cursor, how many frames it has, and those that came
let reopened = []; // when frames did not add up lately
let broken = false;
let pingMs = 20000;
let quiet = 0;
const turns = new Map();
const unsent = new Map(); // turn.create by turn id, until the server has answered it

function connect() {
  const address = new URL("v1/ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  socket = new WebSocket(address, ["turnwire.v1.json"]);
  socket.onopen = () => {
    send({ type: "hello", client: { name: "turnwire-page", version: "1" } });
    open(cursor);
    for (const command of unsent.values()) send(command);
  };
  socket.onmessage = ({ data }) => {
    listen();
    const frame = JSON.parse(data);
    (handlers[frame.type] ?? numbered)(frame);
  };
  socket.onclose = ({ code }) => lost(code);
}

function lost(code) {
  clearTimeout(quiet);
  if ((code >= 4000 && code < 4500) || code === 1009) {
    tell(`the server does not want this page (${code})`);
    return;
  }
  tell("connection lost, coming back …");
  setTimeout(connect, Math.random() * Math.min(BACKOFF_MS_MAX, 250 * 2 ** tries++));
}

// A dead connection would take minutes to close in order; nobody waits for that.
function leave(left = socket) {
  if (!left?.onclose) return;
  left.onopen = left.onmessage = left.onclose = null;
  left.close();
  lost(1006);
}

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function open(after) {
  opening = `open-${++opens}`;
  staged = null;
  send({ type: "session.open", id: opening, session, ...(after?.gen ? { after } : {}) });
}

// Something is missing or wrong: once from the cursor, once from scratch, and no third time within 10 s.
function reopen(after) {
  reopened = reopened.filter((at) => performance.now() - at < 10000);
  if (reopened.length > 1) {
    broken = true;
    return tell("this conversation does not add up; reload the page");
  }
  open(reopened.length ? null : after);
  reopened.push(performance.now());
}

// A browser does not see the server's pings, so silence is asked about.
function listen() {
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    send({ type: "ping" });
    quiet = setTimeout(leave, PONG_MS);
  }, pingMs);
}
addEventListener("online", () => leave());

const handlers = {
  welcome(frame) {
    tries = 0;
    pingMs = frame.ping_ms;
    tell("connected");
    const model = element("model");
    const chosen = model.value;
    model.replaceChildren(...frame.models.map((name) => new Option(name, name)));
    if (frame.models.includes(chosen)) model.value = chosen;
  },
  "session.opened"(frame) {
    if (frame.session !== session || broken || (frame.reply_to ?? null) !== opening) return;
    opening = null;
    staged = null;
    if (frame.mode === "replay") return;
    staged = { cursor: { gen: frame.gen, seq: frame.seq, turn: frame.turn }, count: frame.turns, frames: [] };
    if (!staged.count) adopt();
  },
  "turn.snapshot"(frame) {
    if (opening || broken || frame.session !== session) return;
    if (!staged) return reopen(cursor);
    staged.frames.push(frame);
    if (staged.frames.length === staged.count) adopt();
  },
  ack(frame) {
    if (frame.reply_to === frame.turn) unsent.delete(frame.turn);
  },
  error(frame) {
    if (unsent.has(frame.turn) && frame.error.retry === "reconnect") return leave();
    const turn = turns.get(frame.turn);
    if (turn && unsent.delete(frame.turn)) end(turn, { type: "turn.error", error: frame.error });
    else tell(frame.error.message);
    refresh();
  },
  goaway({ reconnect_min_ms: least, reconnect_max_ms: most }) {
    setTimeout(leave, least + Math.random() * (most - least), socket);
  },
  pong() {},
};

// The snapshot is whole: it takes the place of everything.
function adopt() {
  const before = running();
  const { frames } = staged;
  cursor = staged.cursor;
  staged = null;
  turns.clear();
  element("turns").replaceChildren();
  for (const frame of frames) {
    const turn = turnOf(frame.turn, frame.input);
    turn.told = true;
    for (const part of frame.parts) add(turn, part.part, part.kind, part.text, part.name);
    if (frame.terminal && !proved(turn, frame.terminal)) return reopen(null);
    if (frame.terminal) end(turn, frame.terminal);
  }
  for (const command of unsent.values()) turnOf(command.turn, command.input);
  for (const turn of before.filter(({ id }) => !turns.has(id))) {
    turns.set(turn.id, turn);
    element("turns").append(turn.item);
    // A turn that was just taken may come only after the snapshot.
    if (turn.told) end(turn, { type: "turn.error", error: { message: "The server has lost this answer." } });
  }
  refresh();
}

// Whether the terminal names exactly the parts that are here, each by its length and CRC-32 in UTF-8.
function proved(turn, terminal) {
  const told = new Map(terminal.parts.map((part) => [part.part, `${part.bytes} ${part.crc32}`]));
  const numbers = new Set([...told.keys(), ...turn.parts.keys()]);
  return [...numbers].every((number) => {
    const bytes = new TextEncoder().encode(turn.parts.get(number)?.said ?? "");
    return (told.get(number) ?? "0 0") === `${bytes.length} ${crc32(bytes)}`;
  });
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function numbered(frame) {
  if (opening || broken || frame.session !== session || !("seq" in frame)) return;
  if (cursor?.gen && frame.seq <= cursor.seq) return;
  if (!cursor?.gen || staged || (frame.first_seq ?? frame.seq) !== cursor.seq + 1) return reopen(cursor);
  const turn = frame.turn ? turnOf(frame.turn, frame.input) : null;
  const ended = frame.type === "turn.done" || frame.type === "turn.error";
  if (ended && !proved(turn, frame)) return reopen(null);
  cursor = { gen: cursor.gen, seq: frame.seq, turn: frame.turn ?? null };
  if (!turn) return;
  turn.told = true;
  if (frame.type === "turn.delta") add(turn, frame.part, frame.kind, frame.text, frame.name);
  else if (frame.type === "turn.retrying") note(turn, "trying again …");
  else if (frame.type === "turn.asked") note(turn, "waits for a tool's result, which this page does not have");
  else if (frame.type === "turn.cancelling") note(turn, "stopping …");
  else if (ended) end(turn, frame);
  else note(turn, frame.state === "queued" ? "waits for its turn …" : "…");
  refresh();
}

function turnOf(id, input) {
  let turn = turns.get(id);
  if (!turn) {
    const item = document.createElement("li");
    turn = { id, item, parts: new Map(), note: paragraph("note"), over: false, told: false };
    item.append(turn.note);
    turns.set(id, turn);
    element("turns").append(item);
  }
  if (input?.length && !turn.mine) {
    turn.mine = paragraph("mine");
    turn.mine.textContent = input.map((part) => part.text ?? "[image]").join("\n");
    turn.item.prepend(turn.mine);
  }
  return turn;
}

function paragraph(kind) {
  const made = document.createElement("div");
  made.className = kind;
  return made;
}

function add(turn, number, kind, text, name) {
  let part = turn.parts.get(number);
  if (!part) {
    part = paragraph(kind === "reasoning" ? "reasoning" : "answer");
    part.said = "";
    if (kind === "tool_call") part.textContent = `${name} `;
    turn.parts.set(number, part);
    turn.note.before(part);
  }
  part.append(text);
  part.said += text;
  note(turn, "");
}

function note(turn, text) {
  turn.note.textContent = text;
}

function end(turn, terminal) {
  turn.over = true;
  const failed = terminal.type === "turn.error";
  turn.note.classList.toggle("error", failed);
  if (failed) note(turn, terminal.error.message);
  else note(turn, ENDINGS[terminal.finish_reason] ?? terminal.finish_reason);
}

const running = () => [...turns.values()].filter((turn) => !turn.over);

function refresh() {
  const busy = running().length > 0;
  element("stop").hidden = !busy;
  element("send").hidden = busy;
  element("empty").hidden = turns.size > 0;
  const main = document.querySelector("main");
  if (main.scrollHeight - main.scrollTop - main.clientHeight < 200) main.scrollTop = main.scrollHeight;
}

function tell(text) {
  element("status").textContent = text;
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = element("input");
  const text = input.value.trim();
  if (!text || running().length) return;
  const id = randomId("t_");
  const parts = [{ type: "text", text }];
  const command = { type: "turn.create", id, session, turn: id, input: parts, model: element("model").value || undefined };
  unsent.set(id, command);
  turnOf(id, parts);
  send(command);
  input.value = "";
  refresh();
});

element("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("form").requestSubmit();
  }
});

element("stop").addEventListener("click", () => {
  for (const turn of running()) send({ type: "turn.cancel", session, turn: turn.id });
});

connect();
