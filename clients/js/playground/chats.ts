/**
 * The list of chats, newest first, a page at a time. It is fetched anew when something may have changed it: in this tab,
 * in another tab of this browser (they tell each other), or elsewhere while this tab was not looked at.
 */

import { TurnwireError, type SessionInfo, type Sessions } from "@turnwire/client";
import { ChatItem } from "./chat_item.js";
import { confirmed } from "./confirm.js";
import { button, make, put, say } from "./dom.js";

const PAGE = 30;
const PAGE_MAX = 100;
/** Several reasons to fetch it within this time are one. */
const SETTLE_MS = 150;

export class Chats {
  readonly #sessions: Sessions;
  readonly #begin: () => void;
  readonly #list = make("ul", { class: "list" });
  readonly #note = make("p", { class: "note", role: "status" });
  readonly #new: HTMLButtonElement;
  readonly #more: HTMLButtonElement;
  readonly #items = new Map<string, ChatItem>();
  readonly #channel = new BroadcastChannel("turnwire-chats");
  #infos: readonly SessionInfo[] = [];
  #next: string | null = null;
  #current = "";
  #timer = 0;
  /** Only the newest fetch counts. */
  #fetches = 0;

  /** `begin` puts a new session on the page. */
  constructor(nav: HTMLElement, sessions: Sessions, begin: () => void) {
    this.#sessions = sessions;
    this.#begin = begin;
    this.#new = button({ class: "new" }, begin, "New chat");
    this.#more = button({ class: "quiet more", hidden: true }, () => void this.#loadMore(), "Show more");
    nav.append(this.#new, this.#note, this.#list, this.#more);
    new IntersectionObserver(([entry]) => {
      if (entry?.isIntersecting) void this.#loadMore();
    }).observe(this.#more);
    this.#channel.addEventListener("message", () => this.#refreshSoon());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#refreshSoon();
    });
  }

  /** This session is on the page. */
  show(current: string): void {
    this.#current = current;
    this.#render();
  }

  /** Something changed what the list shows. Other tabs are told as well. */
  changed(): void {
    this.#channel.postMessage("changed");
    this.#refreshSoon();
  }

  #refreshSoon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#refresh(), SETTLE_MS);
  }

  /** Fetch again as much as is shown, in one page. */
  async #refresh(): Promise<void> {
    const fetch = ++this.#fetches;
    const limit = Math.min(PAGE_MAX, Math.max(PAGE, this.#infos.length));
    await this.#attempt("The list of chats cannot be loaded just now.", async () => {
      const { sessions, next } = await this.#sessions.list({ limit });
      if (fetch !== this.#fetches) return;
      this.#infos = sessions;
      this.#next = next;
    });
  }

  async #loadMore(): Promise<void> {
    if (this.#next === null || this.#more.disabled) return;
    const fetch = ++this.#fetches;
    const before = this.#next;
    this.#more.disabled = true;
    await this.#attempt("More chats cannot be loaded just now.", async () => {
      const { sessions, next } = await this.#sessions.list({ limit: PAGE, before });
      if (fetch !== this.#fetches) return;
      const known = new Set(this.#infos.map(({ id }) => id));
      this.#infos = [...this.#infos, ...sessions.filter(({ id }) => !known.has(id))];
      this.#next = next;
    });
    this.#more.disabled = false;
  }

  async #rename(id: string, title: string): Promise<void> {
    this.#infos = this.#infos.map((info) => (info.id === id ? { ...info, title } : info));
    this.#render();
    await this.#attempt("The chat was not renamed.", () => this.#sessions.rename(id, title));
    this.changed();
  }

  async #delete(id: string, name: string): Promise<void> {
    const consequence = `“${name}” and its answers will be gone for good, on every device.`;
    if (!(await confirmed("Delete this chat?", consequence, "Delete"))) return;
    await this.#attempt("The chat was not deleted.", async () => {
      await this.#sessions.delete(id);
      this.#forget(id);
    });
    this.changed();
  }

  /** The focus goes where a person would go on, for its button is gone. */
  #forget(id: string): void {
    const at = this.#infos.findIndex((info) => info.id === id);
    this.#infos = this.#infos.filter((info) => info.id !== id);
    const neighbour = this.#infos.at(Math.min(at, this.#infos.length - 1));
    if (id === this.#current) this.#begin();
    else (this.#items.get(neighbour?.id ?? "") ?? this.#new).focus();
  }

  /** Do something, show the list, and say in one quiet sentence if it failed. */
  async #attempt(failed: string, action: () => Promise<void>): Promise<void> {
    try {
      await action();
      say(this.#note, "");
    } catch (error) {
      if (!(error instanceof TurnwireError)) throw error;
      say(this.#note, `${failed} ${error.message}`);
    }
    this.#render();
  }

  #render(): void {
    const kept = new Set(this.#infos.map(({ id }) => id));
    for (const [id, item] of this.#items)
      if (!kept.has(id)) {
        this.#items.delete(id);
        item.element.remove();
      }
    let next = this.#list.firstElementChild;
    for (const info of this.#infos) {
      let item = this.#items.get(info.id);
      if (!item) {
        item = new ChatItem(info.id, {
          onRename: (id, title) => void this.#rename(id, title),
          onDelete: (id, name) => void this.#delete(id, name),
        });
        this.#items.set(info.id, item);
      }
      item.update(info, info.id === this.#current);
      if (item.element === next) next = next.nextElementSibling;
      else this.#list.insertBefore(item.element, next);
    }
    put(this.#more, "hidden", this.#next === null);
  }
}
