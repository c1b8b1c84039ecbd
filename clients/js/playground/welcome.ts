/** The empty chat: prompts to begin with, what to try while an answer comes, and what each demo model shows. */

import { linkTo } from "./address.js";
import { button, make } from "./dom.js";

const PROMPTS = [
  "Why does an answer survive a reload?",
  "Tell me about copper wire and patience",
  "Naïve café 日本語 🧵: bytes or characters?",
];

/** Its answers leave time for what there is to try. Whoever has a model of their own asks that one. */
const SLOW = "demo/slow";

const DEMOS: Readonly<Record<string, string>> = {
  [SLOW]: "the usual answer at reading speed: time to pull the plug",
  "demo/long": "ten thousand deltas as fast as they come",
  "demo/reasoning": "thinks first, folded away",
  "demo/tool": "calls a tool and waits for you",
  "demo/error-before": "fails before the first byte: watch the retries",
  "demo/error-after": "breaks off midway and keeps what came",
  "demo/stall": "never says a word: press Stop",
};

export type WelcomeEvents = {
  /** Send this, to this model if one is named. */
  readonly onPrompt: (text: string, model: string | undefined) => void;
  readonly onModel: (name: string) => void;
};

export class Welcome {
  readonly element: HTMLElement;
  readonly #tab = make("a", { target: "_blank", rel: "noopener" }, "Open a second tab");
  readonly #models = make("ul", { class: "demos" });
  readonly #modelsSection: HTMLElement;
  readonly #events: WelcomeEvents;
  #slow: string | undefined;

  constructor(events: WelcomeEvents) {
    this.#events = events;
    const things = make(
      "ol",
      { class: "things" },
      thing("Pull the plug", "The button above cuts the connection. Watch it heal, and prove that no word is missing."),
      thing("Reload this page", "The answer goes on where it was, word for word."),
      thing(this.#tab, "Both show the same answer live, and either can stop it."),
    );
    const prompts = make(
      "ul",
      { class: "prompts" },
      ...PROMPTS.map((text) => make("li", {}, button({}, () => events.onPrompt(text, this.#slow), text))),
    );
    this.#modelsSection = make(
      "section",
      { hidden: true, "aria-labelledby": "demos-title" },
      make("h3", { id: "demos-title" }, "Demo models, one for each thing that can happen"),
      this.#models,
    );
    this.element = make(
      "section",
      { class: "welcome", "aria-labelledby": "welcome-title" },
      make("h2", { id: "welcome-title" }, "Answers that outlive their connection"),
      make("p", { class: "lead" }, "Ask anything, or one of these:"),
      prompts,
      make("h3", {}, "Then, while the answer comes"),
      things,
      this.#modelsSection,
    );
  }

  update(session: string, models: readonly string[]): void {
    this.#slow = models.find((name) => name === SLOW);
    this.#tab.href = linkTo(session);
    const demos = models.filter((name) => name in DEMOS);
    this.#modelsSection.hidden = demos.length === 0;
    if (this.#models.childElementCount === demos.length) return;
    this.#models.replaceChildren(
      ...demos.map((name) =>
        make("li", {}, button({ class: "quiet" }, () => this.#events.onModel(name), name), make("span", {}, DEMOS[name] ?? "")),
      ),
    );
  }
}

function thing(title: string | Node, text: string): HTMLElement {
  return make("li", {}, make("strong", {}, title), make("span", {}, text));
}
