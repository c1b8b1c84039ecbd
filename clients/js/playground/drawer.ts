/** On a phone's width the list of chats is a drawer over the page; on wide screens it is always there. */

import { put } from "./dom.js";

const NARROW = "(max-width: 48rem)";

export class Drawer {
  readonly #drawer: HTMLElement;
  readonly #toggle: HTMLElement;
  readonly #scrim: HTMLElement;
  readonly #rest: readonly HTMLElement[];
  #open = false;

  /** `rest`: what lies behind the open drawer and cannot be reached then. */
  constructor(drawer: HTMLElement, toggle: HTMLElement, scrim: HTMLElement, rest: readonly HTMLElement[]) {
    this.#drawer = drawer;
    this.#toggle = toggle;
    this.#scrim = scrim;
    this.#rest = rest;
    toggle.addEventListener("click", () => this.#set(!this.#open));
    scrim.addEventListener("click", () => this.close());
    document.addEventListener("keydown", ({ key, target }) => {
      // Nothing may have the focus. A dialog that lies above takes its own.
      if (key === "Escape" && target instanceof Element && !target.closest("dialog")) this.close();
    });
    drawer.addEventListener("click", (event) => {
      if (event.target instanceof Element && event.target.closest("a")) this.close();
    });
    matchMedia(NARROW).addEventListener("change", () => this.close());
  }

  close(): void {
    if (this.#open) this.#set(false);
  }

  #set(open: boolean): void {
    this.#open = open;
    put(this.#drawer, "data-open", open);
    put(this.#toggle, "aria-expanded", String(open));
    this.#scrim.hidden = !open;
    for (const element of this.#rest) element.inert = open;
    if (open) this.#drawer.querySelector("button")?.focus();
    else this.#toggle.focus();
  }
}
