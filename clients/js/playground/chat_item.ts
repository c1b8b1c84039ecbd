/** One chat of the list: its link, its menu, and the box in which it is renamed. */

import type { SessionInfo } from "@turnwire/client";
import { linkTo } from "./address.js";
import { make, put, say } from "./dom.js";
import { menuButton } from "./menu.js";

const TITLE_CHARS_MAX = 200;

export type ChatEvents = {
  readonly onRename: (id: string, title: string) => void;
  readonly onDelete: (id: string, name: string) => void;
};

export class ChatItem {
  readonly element: HTMLLIElement;
  readonly #id: string;
  readonly #link: HTMLAnchorElement;
  readonly #events: ChatEvents;
  #menu: HTMLButtonElement | null = null;
  #name = "";

  constructor(id: string, events: ChatEvents) {
    this.#id = id;
    this.#events = events;
    this.#link = make("a", { href: linkTo(id) });
    this.element = make("li", {}, this.#link);
  }

  update(info: SessionInfo, current: boolean): void {
    put(this.#link, "aria-current", current && "page");
    const name = nameOf(info);
    if (name === this.#name) return;
    this.#name = name;
    say(this.#link, name);
    put(this.#link, "title", name);
    const menu = menuButton(`Options for ${name}`, [
      { label: "Rename", run: () => this.#rename() },
      { label: "Delete", run: () => this.#events.onDelete(this.#id, name), dangerous: true },
    ]);
    this.#menu?.remove();
    this.#menu = menu;
    this.#link.after(menu);
  }

  focus(): void {
    this.#link.focus();
  }

  #rename(): void {
    const box = make("input", { type: "text", "aria-label": "Title", maxlength: String(TITLE_CHARS_MAX) });
    box.value = this.#name;
    let left = false;
    const leave = (title: string | undefined): void => {
      if (left) return;
      left = true;
      const focused = box === document.activeElement;
      box.replaceWith(this.#link);
      put(this.#menu ?? this.#link, "hidden", undefined);
      if (focused) this.#link.focus();
      if (title && title !== this.#name) this.#events.onRename(this.#id, title);
    };
    box.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter") leave(box.value.trim());
      else if (event.key === "Escape") leave(undefined);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    box.addEventListener("blur", () => leave(undefined));
    this.#link.replaceWith(box);
    if (this.#menu) this.#menu.hidden = true;
    box.focus();
    box.select();
  }
}

export function nameOf({ title, preview }: Pick<SessionInfo, "title" | "preview">): string {
  return title?.trim() || preview?.trim() || "New chat";
}
