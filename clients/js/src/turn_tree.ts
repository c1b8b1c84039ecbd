/** The turns of one session: in the order in which the log has them, and as a tree of which one branch is visible. */

import { because } from "./errors.js";
import { continues, isOver, type TurnState, turnOf, turnOfCommand, viewOf } from "./turn_state.js";
import type { Turn } from "./types.js";
import type { ErrorBody, TurnAccepted, TurnCreate } from "./wire.js";

const LOST = because("The server has lost this answer.", "store_lost", "new_turn");
/** Kept; beyond it the oldest are forgotten, and can be loaded again. */
const TURNS_MAX = 1_000;

export class TurnTree {
  /** Counts changes: a snapshot made at the same count is still right. */
  version = 0;
  hasEarlier = false;

  /** In the order of the log; and those that the server has not told of, in the order in which they were typed. */
  #told = new Map<string, TurnState>();
  readonly #local = new Map<string, TurnState>();
  /** The turn whose branch is shown; null: the newest one's. */
  #shown: string | null = null;

  get busy(): boolean {
    return this.all().some((turn) => !isOver(turn));
  }

  /** The oldest turn that the server has told of. */
  get oldest(): string | undefined {
    return this.#told.keys().next().value;
  }

  get(id: string | null | undefined): TurnState | undefined {
    return this.#told.get(id as string) ?? this.#local.get(id as string);
  }

  all(): TurnState[] {
    return [...this.#told.values(), ...this.#local.values()];
  }

  touch(turn?: TurnState): void {
    this.version++;
    if (turn) turn.view = undefined;
  }

  // --- changes ------------------------------------------------------------------------------------------------------

  /** A turn of this client's, unless the server has told of it already. */
  add(command: TurnCreate, at: number): void {
    if (this.#told.has(command.turn)) return;
    const turn = turnOfCommand(command, at, this.get(command.again));
    this.#local.set(turn.id, turn);
    this.#float();
    this.show(turn.id);
  }

  /** Throws TypeError when the turn had been accepted before. */
  accept(frame: TurnAccepted): void {
    const lost = this.#told.get(frame.turn);
    if (lost && lost.error !== LOST) throw new TypeError("turn");
    const turn = turnOf(frame);
    if (lost) turn.epoch = lost.epoch + 1;
    this.#told.delete(turn.id);
    this.#put(turn);
    this.#float();
    const [oldest] = this.#told.values();
    if (this.#told.size > TURNS_MAX && isOver(oldest as TurnState)) {
      this.#told.delete(this.oldest as string);
      this.hasEarlier = true;
    }
  }

  /** A snapshot, whole: what was told before counts no more. What it lacks and had not ended is lost. */
  adopt(told: readonly TurnState[], mayHaveEarlier: boolean): void {
    const before = this.#told;
    this.#told = new Map();
    for (const turn of told) {
      const known = before.get(turn.id);
      if (known) turn.epoch = known.epoch + (continues(known, turn) ? 0 : 1);
      this.#put(turn);
      before.delete(turn.id);
    }
    for (const turn of before.values()) {
      if (!isOver(turn)) this.fail(turn, LOST);
      if (turn.error === LOST) this.#put(turn);
    }
    this.#float();
    const oldest = told[0];
    this.hasEarlier = mayHaveEarlier || (!!oldest && oldest.parent !== null && !this.get(oldest.parent));
    this.touch();
  }

  /** A page of earlier turns. */
  prepend(earlier: readonly TurnState[], hasEarlier: boolean): void {
    const known = this.#told;
    this.#told = new Map(earlier.map((turn) => [turn.id, turn]));
    for (const turn of known.values()) this.#put(turn);
    this.hasEarlier = hasEarlier;
    this.touch();
  }

  fail(turn: TurnState, error: ErrorBody): TurnState {
    turn.error = error;
    turn.asks = [];
    this.touch(turn);
    return turn;
  }

  /** Whatever has not ended ends so. */
  endAll(error: ErrorBody): void {
    for (const turn of this.all()) if (!isOver(turn)) this.fail(turn, error);
  }

  /** A turn that the server has not told of is not to be seen any more. */
  forget(id: string): void {
    this.#local.delete(id);
    this.touch();
  }

  show(id: string): void {
    this.#shown = id;
    this.touch();
  }

  // --- what is seen -------------------------------------------------------------------------------------------------

  /** The visible branch, oldest first: through the turn that was chosen, else the newest one. */
  visible(): TurnState[] {
    const families = this.#siblings();
    const chosen = this.get(this.#shown) ?? this.all().at(-1);
    const newest = chain(chosen, ({ id }) => this.get(families.get(id)?.at(-1))).at(-1);
    return chain(newest, ({ parent }) => this.get(parent)).reverse();
  }

  views(): Turn[] {
    const families = this.#siblings();
    return this.visible().map((turn) => viewOf(turn, families.get(turn.parent) as string[]));
  }

  viewOf(turn: TurnState): Turn {
    return viewOf(turn, this.#siblings().get(turn.parent) ?? [turn.id]);
  }

  // --- within -------------------------------------------------------------------------------------------------------

  /** Turns that follow whatever is newest when they are taken follow, as far as this client knows, each other. */
  #float(): void {
    let parent = [...this.#told.keys()].at(-1) ?? null;
    for (const turn of this.#local.values()) {
      if (turn.floating && turn.parent !== parent) {
        turn.parent = parent;
        this.touch(turn);
      }
      if (!turn.error) parent = turn.id;
    }
  }

  /** Ids of turns by their parent. */
  #siblings(): Map<string | null, string[]> {
    const families = new Map<string | null, string[]>();
    for (const { id, parent } of this.all()) {
      const family = families.get(parent);
      if (family) family.push(id);
      else families.set(parent, [id]);
    }
    return families;
  }

  #put(turn: TurnState): void {
    this.#told.set(turn.id, turn);
    this.#local.delete(turn.id);
    this.touch();
  }
}

/**
 * From one turn to the next, as long as there is one. No server makes a circle of them, but a loop must end whatever
 * comes.
 */
function chain(turn: TurnState | undefined, next: (turn: TurnState) => TurnState | undefined): TurnState[] {
  const found = new Set<TurnState>();
  for (let at = turn; at && !found.has(at); at = next(at)) found.add(at);
  return [...found];
}
