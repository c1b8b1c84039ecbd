// The plain page: one session, whose id is in the address, so that a reload resumes it. It keeps the client rule of
// docs/protocol.md in its smallest form: apply a frame only if it continues the cursor, else open again. What a model
// says goes into the page as text, never as markup.

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
let opening = false; // while an open is unanswered, the session's frames are dropped
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
    open();
    for (const command of unsent.values()) send(command);
  };
  socket.onmessage = ({ data }) => {
    listen();
    const frame = JSON.parse(data);
    (handlers[frame.type] ?? numbered)(frame);
  };
  socket.onclose = ({ code }) => {
    clearTimeout(quiet);
    if ((code >= 4000 && code < 4500) || code === 1009) {
      tell(`the server does not want this page (${code})`);
      return;
    }
    tell("connection lost, coming back …");
    setTimeout(connect, Math.random() * Math.min(BACKOFF_MS_MAX, 250 * 2 ** tries++));
  };
}

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function open() {
  opening = true;
  send({ type: "session.open", id: "open", session, ...(cursor?.gen ? { after: cursor } : {}) });
}

// A browser does not see the server's pings, so silence is asked about.
function listen() {
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    send({ type: "ping" });
    quiet = setTimeout(() => socket.close(), PONG_MS);
  }, pingMs);
}
addEventListener("online", () => socket?.close());

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
    if (frame.session !== session || (opening && frame.reply_to !== "open")) return;
    opening = false;
    cursor = { gen: frame.gen, seq: frame.seq, turn: frame.turn };
    if (frame.mode === "snapshot") {
      turns.clear();
      element("turns").replaceChildren();
      for (const command of unsent.values()) turnOf(command.turn, command.input);
      refresh();
    }
  },
  "turn.snapshot"(frame) {
    if (opening || frame.session !== session) return;
    const turn = turnOf(frame.turn, frame.input);
    for (const part of frame.parts) add(turn, part.part, part.kind, part.text, part.name);
    if (frame.terminal) end(turn, frame.terminal);
    refresh();
  },
  ack(frame) {
    if (frame.reply_to === frame.turn) unsent.delete(frame.turn);
  },
  error(frame) {
    const turn = turns.get(frame.turn);
    if (turn && unsent.delete(frame.turn)) end(turn, { type: "turn.error", error: frame.error });
    else tell(frame.error.message);
    refresh();
  },
  goaway() {
    tell("the server restarts, coming back …");
  },
  pong() {},
};

function numbered(frame) {
  if (opening || frame.session !== session || !("seq" in frame) || frame.seq <= cursor.seq) return;
  if ((frame.first_seq ?? frame.seq) !== cursor.seq + 1) return open();
  cursor = { gen: cursor.gen, seq: frame.seq, turn: frame.turn ?? null };
  if (!frame.turn) return;
  const turn = turnOf(frame.turn, frame.input);
  if (frame.type === "turn.delta") add(turn, frame.part, frame.kind, frame.text, frame.name);
  else if (frame.type === "turn.retrying") note(turn, "trying again …");
  else if (frame.type === "turn.asked") note(turn, "waits for a tool's result, which this page does not have");
  else if (frame.type === "turn.cancelling") note(turn, "stopping …");
  else if (frame.type === "turn.done" || frame.type === "turn.error") end(turn, frame);
  else note(turn, frame.state === "queued" ? "waits for its turn …" : "…");
  refresh();
}

function turnOf(id, input) {
  let turn = turns.get(id);
  if (!turn) {
    const item = document.createElement("li");
    turn = { id, item, parts: new Map(), note: paragraph("note"), over: false };
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
    if (kind === "tool_call") part.textContent = `${name} `;
    turn.parts.set(number, part);
    turn.note.before(part);
  }
  part.append(text);
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
