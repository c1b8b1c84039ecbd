/** Brings the page's parts together: the client on one side, the views on the other, the address between them. */

import { Turnwire, type OnFrame, type SendOptions, type Session } from "@turnwire/client";
import { linkTo, sessionOfAddress } from "./address.js";
import { Announcer } from "./announcer.js";
import { Chats } from "./chats.js";
import { Composer } from "./composer.js";
import { ConnectionLight } from "./connection_light.js";
import { Conversation } from "./conversation.js";
import { find, put, say } from "./dom.js";
import { Drawer } from "./drawer.js";
import { paintTogether } from "./frames.js";
import { Healing } from "./healing.js";
import { Inspector } from "./inspector.js";
import { Plug } from "./plug.js";
import { Welcome } from "./welcome.js";

/** After these frames the list of chats may look different. */
const CHANGES_LIST: ReadonlySet<string> = new Set([
  ...["turn.accepted", "turn.done", "turn.error", "session.updated", "session.deleted"],
]);
/** A tool for the demo model that calls one. Whoever uses the page is the one who runs it. */
const TOOLS: ReadonlyMap<string, SendOptions["tools"]> = new Map([
  ["demo/tool", [{ name: "get_time", description: "The time in a zone", parameters: { type: "object" } }]],
]);

const plug = new Plug();
const healing = new Healing(find("healing", HTMLElement));
const inspector = new Inspector(find("inspector", HTMLElement), find("inspect", HTMLButtonElement));
const onFrame: OnFrame = (direction, frame) => {
  inspector.frame(direction, frame);
  healing.frame(direction, frame);
  if (direction === "in" && CHANGES_LIST.has(frame.type)) chats.changed();
};
const turnwire = new Turnwire("v1/ws", { webSocket: plug.webSocket, onFrame });

const announcer = new Announcer(find("announcer", HTMLElement));
const light = new ConnectionLight(find("connection", HTMLElement));
const notice = find("notice", HTMLElement);
const composer = new Composer(find("composer", HTMLFormElement), {
  onSend: (text, options) => session.send(text, { ...options, ...chosen() }),
  onStop: () => void session.stop().catch(showProblem),
});
const conversation = new Conversation(find("scroller", HTMLElement), find("turns", HTMLElement), announcer, chosen);
const welcome = new Welcome({
  onPrompt: (text, model) => {
    if (model !== undefined) composer.model = model;
    session.send(text, chosen());
  },
  onModel: (name) => {
    composer.model = name;
    composer.focus();
  },
});
find("turns", HTMLElement).before(welcome.element);
const chats = new Chats(find("chats", HTMLElement), turnwire.sessions, () => {
  drawer.close();
  location.hash = turnwire.session().id;
  composer.focus();
});
const drawer = new Drawer(find("chats", HTMLElement), find("drawer", HTMLElement), find("scrim", HTMLElement), [
  find("main", HTMLElement),
  find("inspector", HTMLElement),
]);

let session: Session;
let leave = (): void => undefined;

/** What is sent with each turn because of the chosen model. */
function chosen(): SendOptions {
  const { model } = composer;
  if (model === undefined) return {};
  const tools = TOOLS.get(model);
  return tools ? { model, tools } : { model };
}

function open(id: string): void {
  leave();
  session = turnwire.session(id);
  conversation.show(session);
  healing.watch(id);
  chats.show(id);
  leave = session.subscribe(() => paintTogether(update));
  update();
}

function update(): void {
  const snapshot = session.getSnapshot();
  conversation.update(snapshot);
  composer.update(snapshot.busy, snapshot.deleted);
  composer.setModels(turnwire.models);
  light.update(snapshot.connection, snapshot.problem);
  put(welcome.element, "hidden", snapshot.turns.length > 0 || snapshot.deleted);
  welcome.update(session.id, turnwire.models);
  say(notice, snapshot.deleted ? "This chat was deleted. “New chat” begins another." : (snapshot.problem ?? ""));
  const title = snapshot.title ? `${snapshot.title} – Turnwire` : "Turnwire";
  if (document.title !== title) document.title = title;
}

function showProblem(error: unknown): void {
  if (error instanceof Error) say(notice, error.message);
}

function openAddressed(): void {
  const named = sessionOfAddress();
  const id = named ?? turnwire.session().id;
  if (id !== named) history.replaceState(null, "", linkTo(id));
  open(id);
}

find("skip", HTMLAnchorElement).addEventListener("click", (event) => {
  event.preventDefault(); // Its fragment would be taken for a session.
  composer.focus();
});
find("plug", HTMLButtonElement).addEventListener("click", () => healing.pulled(plug.pull()));
addEventListener("hashchange", openAddressed);
turnwire.subscribe(update);
openAddressed();
chats.changed();
