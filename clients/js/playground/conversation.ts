/**
 * The turns of the open session, in order. Each keeps its view while it is there, and a view is told only when its turn
 * changed. Answers far out of sight are taken off the page when there is very much text, so that it never grows without
 * end.
 */

import type { SendOptions, Session, Snapshot, Turn } from "@turnwire/client";
import { TurnwireError } from "@turnwire/client";
import type { Announcer } from "./announcer.js";
import { button, make, put, say } from "./dom.js";
import { Follow } from "./follow.js";
import { hasEnded, TurnView, type TurnContext } from "./turn_view.js";
import { spoken } from "./wording.js";

const MOUNTED_CHARS_MAX = 400_000;

export class Conversation {
  readonly #list: HTMLElement;
  readonly #earlier: HTMLButtonElement;
  readonly #problem = make("p", { class: "problem", role: "alert" });
  readonly #announcer: Announcer;
  readonly #follow: Follow;
  readonly #chosen: () => SendOptions;
  readonly #seen: IntersectionObserver;
  /** The views by turn, the ones that were in sight last at the end. */
  readonly #views = new Map<string, TurnView>();
  #inSight = new Set<Element>();
  #session: Session | null = null;
  #turns: readonly Turn[] = [];
  #focus: { turn: string; button: "previous" | "next" } | null = null;

  constructor(scroller: HTMLElement, list: HTMLElement, announcer: Announcer, chosen: () => SendOptions) {
    this.#list = list;
    this.#announcer = announcer;
    this.#chosen = chosen;
    const latest = button({ class: "latest", hidden: true }, () => this.#follow.toEnd(), "Latest ↓");
    this.#follow = new Follow(scroller, list, (following) => (latest.hidden = following));
    this.#earlier = button({ class: "earlier", hidden: true }, () => void this.#loadEarlier(), "Load earlier messages");
    list.before(this.#earlier, this.#problem);
    scroller.after(latest);
    this.#seen = new IntersectionObserver((entries) => this.#sighted(entries), { root: scroller, rootMargin: "150% 0px" });
  }

  /** Show another session. What `update` gives next is its. */
  show(session: Session): void {
    this.#session = session;
    this.#turns = [];
    for (const view of this.#views.values()) view.unmount();
    this.#views.clear();
    this.#seen.disconnect();
    this.#inSight = new Set();
    this.#list.replaceChildren();
    say(this.#problem, "");
    this.#follow.toEnd();
  }

  update(snapshot: Snapshot): void {
    const session = this.#session;
    if (!session) return;
    put(this.#earlier, "hidden", !snapshot.hasEarlier);
    if (snapshot.turns === this.#turns) return;
    const sent = snapshot.turns.at(-1)?.id !== this.#turns.at(-1)?.id && snapshot.turns.at(-1)?.status === "sending";
    this.#turns = snapshot.turns;
    const context: TurnContext = {
      session,
      chosen: this.#chosen,
      onBranch: (turn, pressed) => (this.#focus = { turn, button: pressed }),
    };
    this.#place(snapshot.turns, context);
    for (const turn of snapshot.turns) this.#tell(turn);
    if (sent) this.#follow.toEnd();
    if (this.#focus) {
      this.#views.get(this.#focus.turn)?.focusBranchButton(this.#focus.button);
      if (this.#views.has(this.#focus.turn)) this.#focus = null;
    }
  }

  /** Have one view for each turn, in their order. */
  #place(turns: readonly Turn[], context: TurnContext): void {
    const wanted = new Set(turns.map(({ id }) => id));
    for (const [id, view] of this.#views)
      if (!wanted.has(id)) {
        this.#views.delete(id);
        this.#seen.unobserve(view.element);
        this.#inSight.delete(view.element);
        view.unmount();
        view.element.remove();
      }
    let next = this.#list.firstElementChild;
    for (const { id } of turns) {
      let view = this.#views.get(id);
      if (!view) {
        view = new TurnView(context, id);
        this.#views.set(id, view);
        this.#seen.observe(view.element);
      }
      if (view.element === next) next = next.nextElementSibling;
      else this.#list.insertBefore(view.element, next);
    }
  }

  #tell(turn: Turn): void {
    const view = this.#views.get(turn.id);
    if (!view || view.turn === turn) return;
    const before = view.turn;
    view.update(turn);
    if (!before || hasEnded(before) || !hasEnded(turn)) return;
    if (turn.text) this.#announcer.announce(`Answer: ${spoken(turn.text)}`);
    if (turn.error) this.#announcer.announce(`Error: ${turn.error.message}`);
  }

  #sighted(entries: readonly IntersectionObserverEntry[]): void {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) {
        this.#inSight.delete(target);
        continue;
      }
      this.#inSight.add(target);
      const id = target.getAttribute("data-turn") ?? "";
      const view = this.#views.get(id);
      if (!view) continue;
      view.mount();
      this.#views.delete(id);
      this.#views.set(id, view);
    }
    this.#unmountOldest();
  }

  #unmountOldest(): void {
    let chars = 0;
    for (const view of [...this.#views.values()].reverse()) {
      if (!view.mounted) continue;
      chars += view.chars;
      const free = view.turn !== null && hasEnded(view.turn) && !this.#inSight.has(view.element);
      if (chars > MOUNTED_CHARS_MAX && free) view.unmount();
    }
  }

  async #loadEarlier(): Promise<void> {
    const session = this.#session;
    if (!session) return;
    this.#earlier.disabled = true;
    try {
      await session.loadEarlier();
      this.#follow.holding(() => this.update(session.getSnapshot()));
      say(this.#problem, "");
    } catch (error) {
      say(this.#problem, error instanceof TurnwireError ? error.message : "Earlier messages could not be loaded.");
    } finally {
      this.#earlier.disabled = false;
    }
  }
}
