/** The one live region that reads aloud: each finished answer once, and errors. Streaming text is never live. */

import { make } from "./dom.js";

const KEPT = 4;

export class Announcer {
  readonly #element: HTMLElement;

  constructor(element: HTMLElement) {
    this.#element = element;
  }

  announce(sentence: string): void {
    this.#element.append(make("p", {}, sentence));
    while (this.#element.childElementCount > KEPT) this.#element.firstElementChild?.remove();
  }
}
