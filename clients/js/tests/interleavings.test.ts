/**
 * Whatever a network does between a server and this client, the client shows in the end exactly what it would have shown
 * without, and on the way never anything else than the beginning of it (P3). fast-check draws the conversation and what
 * happens; a failure prints its seed and the shortest case. `TURNWIRE_RUNS=20000` draws that many of each.
 */

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { Handle } from "../src/handle.js";
import { Transcript } from "../src/transcript.js";
import type { Turn } from "../src/types.js";
import {
  append,
  conversation,
  linesOf,
  longConversation,
  parentOf,
  turnId,
  type TurnDrawn,
} from "./support/conversation.js";
import { create, SESSION } from "./support/frames.js";
import { SessionLog } from "./support/server_model.js";
import { brokenEvents, doublingEvents, type Event, honestEvents, stormyEvents, WINDOW_MS, World } from "./support/world.js";

const RUNS = Number(process.env["TURNWIRE_RUNS"] ?? 300);
const TIMEOUT_MS = 20_000 + 60 * RUNS;

/** Which turns this client has typed itself: it has a handle on each. */
const mine = fc.uniqueArray(fc.nat(3), { maxLength: 2 });

function type(transcript: Transcript, drawn: readonly TurnDrawn[], typed: readonly number[]): void {
  for (const number of typed) {
    const command = create(turnId(number), { parent: parentOf(drawn, number) });
    if (number < drawn.length) transcript.tree.add(command, 0);
  }
}

function viewsOf({ tree }: Transcript): { all: Turn[]; visible: Turn[] } {
  return { all: tree.all().map((turn) => tree.viewOf(turn)), visible: tree.views() };
}

/** What a client shows that was there from the first frame to the last, with nothing cut, merged or late. */
function uncut(drawn: readonly TurnDrawn[], typed: readonly number[]): Transcript {
  const log = new SessionLog();
  const transcript = new Transcript(SESSION);
  type(transcript, drawn, typed);
  const give = (frames: ReturnType<SessionLog["snapshot"]>) => {
    for (const frame of frames) expect(transcript.receive(frame, 0)).toEqual({});
  };
  give(log.answer(transcript.resume(), false).frames);
  log.begin();
  give(log.snapshot());
  for (const line of linesOf(drawn)) {
    const { head } = log;
    append(log, line);
    give(log.from(head, false));
  }
  return transcript;
}

/** What a handle's reader has: the texts since the last reset, by part, and how often it was reset. */
class Reading {
  texts: string[] = [];
  resets = 0;
  readonly #handle: Handle;
  readonly #id: string;
  readonly #end: Promise<void>;

  constructor({ tree }: Transcript, id: string) {
    this.#id = id;
    this.#handle = new Handle(
      id,
      () => tree.get(id),
      () => Promise.resolve(),
    );
    this.#end = this.#read();
  }

  get id(): string {
    return this.#id;
  }

  wake(): void {
    this.#handle.wake();
  }

  async end(turn: Turn): Promise<void> {
    this.#handle.end(turn, undefined);
    await this.#end;
  }

  async #read(): Promise<void> {
    for await (const { part, text, reset } of this.#handle) {
      if (reset) {
        this.texts = [];
        this.resets++;
      } else this.texts[part] = (this.texts[part] ?? "") + text;
    }
  }
}

/** The parts' texts of each turn. */
type Texts = Map<string, string[]>;

function textsOf({ tree }: Transcript): Texts {
  return new Map(tree.all().map(({ id, parts }) => [id, parts.map(({ text }) => text)]));
}

function expectPrefixes(seen: readonly (string | undefined)[], whole: readonly (readonly string[])[], id: string): void {
  for (const [part, text] of seen.entries()) {
    if (text !== undefined && !whole.some((texts) => texts[part]?.startsWith(text))) {
      throw new Error(`part ${part} of ${id} showed ${JSON.stringify(text)}, which begins none of ${JSON.stringify(whole)}`);
    }
  }
}

/** Let the events happen to it; everything that is seen on the way must begin one of the `truths`. */
async function live(
  world: World,
  readings: readonly Reading[],
  truths: readonly Texts[],
  events: readonly (() => void)[],
): Promise<void> {
  const wholeOf = (id: string) => truths.map((texts) => texts.get(id) ?? []);
  world.observe = () => {
    for (const [id, texts] of textsOf(world.transcript)) expectPrefixes(texts, wholeOf(id), id);
    for (const reading of readings) reading.wake();
  };
  for (const happen of events) {
    happen();
    // Readers go on in microtasks.
    await new Promise(setImmediate);
    for (const { id, texts } of readings) expectPrefixes(texts, wholeOf(id), id);
  }
}

/** Every reader has been told the text parts of its turn, whole and once. */
async function expectRead({ tree }: Transcript, readings: readonly Reading[]): Promise<void> {
  for (const reading of readings) {
    const turn = tree.get(reading.id);
    if (!turn) throw new Error(`${reading.id} is not there`);
    await reading.end(tree.viewOf(turn));
    expect(reading.texts.join("")).toBe(tree.viewOf(turn).text);
  }
}

type Case = [drawn: TurnDrawn[], typed: number[], events: Event[]];

async function run([drawn, typed, events]: Case, spaced: boolean): Promise<World> {
  const truth = uncut(drawn, typed);
  const world = new World(linesOf(drawn), spaced);
  type(world.transcript, drawn, typed);
  const readings = typed
    .filter((number) => number < drawn.length)
    .map((number) => new Reading(world.transcript, turnId(number)));
  const all = events.map((event) => () => {
    world.happen(event);
    expect(world.transcript.problem).toBeUndefined();
  });
  await live(world, readings, [textsOf(truth)], [...all, () => world.settle()]);
  expect(world.transcript.problem).toBeUndefined();
  expect(viewsOf(world.transcript)).toEqual(viewsOf(truth));
  expect(world.transcript.tree.all().every((turn) => world.transcript.tree.viewOf(turn).proved)).toBe(true);
  await expectRead(world.transcript, readings);
  expect(readings.map(({ resets }) => resets)).toEqual(readings.map(() => 0));
  return world;
}

describe("any interleaving yields the transcript of the uncut run", () => {
  test(
    "CLIENT-1 to CLIENT-4: cuts, delays, merged deltas, replays and snapshots, without a single reopen or fault",
    async () => {
      const property = fc.asyncProperty(conversation, mine, honestEvents, async (...drawn) => {
        const world = await run(drawn, true);
        expect(world.reopens).toEqual([]);
        expect(world.faults).toEqual([]);
        expect(world.resends).toBe(0);
      });
      await fc.assert(property, { numRuns: RUNS });
    },
    TIMEOUT_MS,
  );

  test(
    "CLIENT-1: frames that come twice, now or later, cost nothing",
    async () => {
      const property = fc.asyncProperty(conversation, mine, doublingEvents, async (...drawn) => {
        const world = await run(drawn, false);
        expect(world.reopens).toEqual([]);
        expect(world.faults).toEqual([]);
      });
      await fc.assert(property, { numRuns: RUNS });
    },
    TIMEOUT_MS,
  );

  test(
    "CLIENT-1, CLIENT-6: and where frames are dropped, doubled and swapped within a connection, by opening again",
    async () => {
      let reopens = 0;
      const property = fc.asyncProperty(conversation, mine, brokenEvents, async (...drawn) => {
        reopens += (await run(drawn, true)).reopens.length;
      });
      await fc.assert(property, { numRuns: RUNS });
      // The network did harm that was seen.
      expect(reopens).toBeGreaterThan(RUNS / 20);
    },
    TIMEOUT_MS,
  );

  test(
    "CLIENT-6: where faults come faster than it may open again, it says so, asks no third time, and heals on the next connection",
    async () => {
      let problems = 0;
      const property = fc.asyncProperty(longConversation, stormyEvents, async (drawn, events) => {
        const truth = uncut(drawn, []);
        const world = new World(linesOf(drawn), false);
        const all = events.map((event) => () => {
          const problem = world.transcript.problem;
          world.happen(event);
          if (problem === undefined && world.transcript.problem !== undefined) problems++;
        });
        await live(world, [], [textsOf(truth)], all);
        for (const [number, at] of world.reopens.entries()) {
          const third = world.reopens[number + 2];
          if (third !== undefined) expect(third - at).toBeGreaterThanOrEqual(WINDOW_MS);
        }
        world.settle();
        expect(world.transcript.problem).toBeUndefined();
        expect(viewsOf(world.transcript)).toEqual(viewsOf(truth));
      });
      await fc.assert(property, { numRuns: RUNS });
      expect(problems).toBeGreaterThan(0);
    },
    TIMEOUT_MS,
  );
});

describe("the store comes back shorter", () => {
  test(
    "CLIENT-4, CLIENT-5: nothing of two histories is ever spliced, and in the end the new one is shown",
    async () => {
      let lost = 0;
      const lengths = fc.integer({ min: 1, max: 15 });
      const property = fc.asyncProperty(
        conversation,
        conversation,
        mine,
        honestEvents,
        lengths,
        honestEvents,
        async (before, after, typed, first, length, second) => {
          const world = new World(linesOf(before), true);
          type(world.transcript, before, typed);
          const here = typed.filter((number) => number < before.length);
          const readings = here.map((number) => new Reading(world.transcript, turnId(number)));
          const truths = [textsOf(uncut(before, []))];
          let fresh = new Transcript(SESSION);
          const lose = (): void => {
            const loss = renewed(world.log, length, before, after);
            fresh = loss.reader;
            truths.push(textsOf(fresh));
            world.lose(loss.kept, loss.lines);
          };
          const happening = (events: readonly Event[]) => events.map((event) => () => world.happen(event));
          const all = [...happening(first), lose, ...happening(second), () => world.settle()];
          await live(world, readings, truths, all);
          expect(world.transcript.problem).toBeUndefined();
          expect(world.faults).toEqual([]);
          expect(world.reopens).toEqual([]);

          const shown = new Map(viewsOf(world.transcript).all.map((turn) => [turn.id, turn]));
          for (const turn of viewsOf(fresh).all) expect(withoutSiblings(shown.get(turn.id))).toEqual(withoutSiblings(turn));
          for (const { id, error, unsent } of shown.values()) {
            if (fresh.tree.get(id)) continue;
            lost++;
            // It was lost, or never came to be known.
            expect(unsent === undefined && (error === undefined || error.code === "store_lost")).toBe(true);
          }
        },
      );
      await fc.assert(property, { numRuns: RUNS });
      expect(lost).toBeGreaterThan(0);
    },
    TIMEOUT_MS,
  );
});

/**
 * What becomes of a log that loses its last `length` entries: whole turns stay, what had not ended ends, and the turns
 * that were lost whole, or never came, are accepted anew with what `after` says. `reader` reads it from the beginning.
 */
function renewed(log: SessionLog, length: number, before: readonly TurnDrawn[], after: readonly TurnDrawn[]) {
  const kept = Math.max(0, log.head - length);
  const survived = log.turns(kept);
  const ends = survived.flatMap(({ accepted, terminal }) =>
    terminal ? [] : [{ seal: accepted.turn, how: "error" as const }],
  );
  const turns = [...before.slice(0, survived.length), ...after.slice(survived.length)];
  const lines = [...ends, ...linesOf(turns, survived.length)];
  const whole = new SessionLog();
  whole.begin();
  for (const frame of log.from(0, false, kept)) whole.append({ ...frame });
  for (const line of lines) append(whole, line);
  const reader = new Transcript(SESSION);
  for (const frame of whole.answer(reader.resume(), false).frames) expect(reader.receive(frame, 0)).toEqual({});
  return { kept, lines, reader };
}

/** Lost turns stay beside the others, so families differ. */
function withoutSiblings(turn: Turn | undefined): Partial<Turn> {
  const { siblings: _, ...rest } = turn ?? {};
  return rest;
}
