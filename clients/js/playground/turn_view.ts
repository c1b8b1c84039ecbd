/** One turn on the page: the question, the answer's parts, what it asks for, how it ended, and what can be done with it. */

import type { SendOptions, Session, Turn } from "@turnwire/client";
import { askView } from "./ask_view.js";
import { copyButton } from "./clipboard.js";
import { button, make, put, say } from "./dom.js";
import { icon } from "./icons.js";
import { partView, type PartView } from "./part_view.js";
import { QuestionView, textOf } from "./question_view.js";
import { usageView } from "./usage_view.js";
import { ending, hint, waiting } from "./wording.js";

const ENDED: ReadonlySet<Turn["status"]> = new Set(["done", "cancelled", "error"]);

export const hasEnded = (turn: Turn): boolean => ENDED.has(turn.status);

/** What a view needs to carry out what its buttons say. */
export type TurnContext = {
  readonly session: Session;
  /** What is chosen for the next answer, such as its model. */
  readonly chosen: () => SendOptions;
  /** Another branch was asked for with this button of this turn. */
  readonly onBranch: (turn: string, button: "previous" | "next") => void;
};

export class TurnView {
  readonly element: HTMLElement;
  turn: Turn | null = null;
  readonly #context: TurnContext;
  readonly #question: QuestionView;
  readonly #parts: PartView[] = [];
  readonly #partsElement = make("div", { class: "parts" });
  readonly #asks = make("div", { class: "asks" });
  readonly #status = make("p", { class: "status" });
  readonly #error = make("div", { class: "error", hidden: true });
  readonly #below = make("div", { class: "below" });
  readonly #answer: HTMLElement;
  readonly #branches: Branches;
  readonly #regenerate: HTMLButtonElement;
  readonly #copy: HTMLButtonElement;
  #mounted = true;

  constructor(context: TurnContext, id: string) {
    this.#context = context;
    const { session, chosen } = context;
    const options = (): SendOptions => ({ ...chosen(), onBusy: "interrupt" });
    this.#question = new QuestionView((input) => session.edit(id, input, options()));
    this.#branches = new Branches((to, pressed) => {
      context.onBranch(to, pressed);
      session.showBranch(to);
    });
    this.#copy = copyButton("Copy answer", () => this.turn?.text ?? "");
    this.#regenerate = button({ class: "quiet icon-button", "aria-label": "Regenerate", title: "Regenerate" }, () =>
      session.regenerate(id, options()),
    );
    this.#regenerate.append(icon("again"));
    this.#below.append(make("div", { class: "actions" }, this.#branches.element, this.#copy, this.#regenerate));
    this.#answer = make(
      "div",
      { class: "answer" },
      make("h3", { class: "unseen" }, "Answer"),
      ...[this.#partsElement, this.#asks, this.#status, this.#error, this.#below],
    );
    this.element = make("article", { "data-turn": id }, this.#question.element, this.#answer);
  }

  /** How much text its answer has: what keeping it on the page costs. */
  get chars(): number {
    return this.turn?.text.length ?? 0;
  }

  get mounted(): boolean {
    return this.#mounted;
  }

  update(turn: Turn): void {
    if (turn === this.turn) return;
    const before = this.turn;
    this.turn = turn;
    const ended = hasEnded(turn);
    put(this.element, "data-status", turn.status);
    put(this.element, "aria-label", `Turn: ${textOf(turn.input).slice(0, 80)}`);
    this.#question.update(turn.input, !turn.unsent && turn.status !== "sending");
    if (this.#mounted) this.#showParts(turn);
    if (turn.asks !== before?.asks) this.#showAsks(turn);
    say(this.#status, ended ? ending(turn) : waiting(turn));
    put(this.#status, "data-moving", !ended && turn.status !== "parked");
    if (turn.error !== before?.error || turn.unsent !== before?.unsent) this.#showError(turn);
    this.#showBelow(turn, ended);
  }

  /** Take the answer off the page and keep its place, so that long conversations cost no more than short ones. */
  unmount(): void {
    if (!this.#mounted) return;
    const height = this.#partsElement.getBoundingClientRect().height;
    this.#mounted = false;
    this.#partsElement.style.blockSize = `${height}px`;
    for (const part of this.#parts) part.clear();
  }

  mount(): void {
    if (this.#mounted) return;
    this.#mounted = true;
    this.#partsElement.style.blockSize = "";
    if (this.turn) this.#showParts(this.turn);
  }

  focusBranchButton(which: "previous" | "next"): void {
    this.#branches.focus(which);
  }

  #showParts({ parts }: Turn): void {
    for (const [index, part] of parts.entries()) {
      let view = this.#parts[index];
      if (view?.kind !== part.kind) {
        for (const old of this.#parts.splice(index)) old.element.remove();
        view = this.#parts[index] = partView(part);
        this.#partsElement.append(view.element);
      }
      view.update(part, index === parts.length - 1);
    }
    for (const old of this.#parts.splice(parts.length)) old.element.remove();
  }

  #showAsks({ asks }: Turn): void {
    const shown = new Map([...this.#asks.children].map((element) => [element.getAttribute("data-request"), element]));
    this.#asks.replaceChildren(
      ...asks.map((ask) => shown.get(ask.request) ?? askView(ask, (asked, value) => this.#context.session.respond(asked, value))),
    );
  }

  #showError(turn: Turn): void {
    const { error } = turn;
    this.#error.hidden = !error;
    if (!error) return this.#error.replaceChildren();
    this.#error.replaceChildren(make("p", {}, make("strong", {}, error.message), " ", hint(turn)));
    if (error.upgradeUrl && /^https?:\/\//i.test(error.upgradeUrl))
      this.#error.append(make("a", { href: error.upgradeUrl, target: "_blank", rel: "noopener noreferrer" }, "Get more"));
    if (!turn.unsent) return;
    const { session } = this.#context;
    this.#error.append(
      make(
        "div",
        { class: "buttons" },
        button({ class: "primary" }, () => session.retrySend(turn.id), "Send again"),
        button({}, () => session.discard(turn.id), "Discard"),
      ),
    );
  }

  #showBelow(turn: Turn, ended: boolean): void {
    this.#branches.update(turn);
    this.#regenerate.hidden = !ended || turn.unsent === true;
    this.#copy.hidden = !ended || turn.text === "";
    const footer = this.#below.querySelector(".usage");
    if (!ended || turn.unsent) footer?.remove();
    else if (footer) footer.replaceWith(usageView(turn));
    else this.#below.prepend(usageView(turn));
  }
}

/** The arrows between the versions of a turn. */
class Branches {
  readonly element: HTMLElement;
  readonly #place = make("span");
  readonly #previous: HTMLButtonElement;
  readonly #next: HTMLButtonElement;
  #siblings: readonly string[] = [];
  #index = 0;

  constructor(show: (turn: string, pressed: "previous" | "next") => void) {
    const step = (by: number, pressed: "previous" | "next"): void => {
      const turn = this.#siblings[this.#index + by];
      if (turn !== undefined) show(turn, pressed);
    };
    this.#previous = button({ class: "quiet icon-button", "aria-label": "Previous version" }, () => step(-1, "previous"));
    this.#previous.append(icon("previous"));
    this.#next = button({ class: "quiet icon-button", "aria-label": "Next version" }, () => step(1, "next"));
    this.#next.append(icon("next"));
    this.element = make("div", { class: "branches" }, this.#previous, this.#place, this.#next);
  }

  update({ id, siblings }: Turn): void {
    this.#siblings = siblings;
    this.#index = siblings.indexOf(id);
    this.element.hidden = siblings.length < 2;
    say(this.#place, `${this.#index + 1} / ${siblings.length}`);
    this.#previous.disabled = this.#index <= 0;
    this.#next.disabled = this.#index >= siblings.length - 1;
  }

  focus(which: "previous" | "next"): void {
    const [first, second] = which === "previous" ? [this.#previous, this.#next] : [this.#next, this.#previous];
    (first.disabled ? second : first).focus();
  }
}
