/** Every recorded session of protocol/sessions, its server's side played to the pure core of this client. */

import { readdirSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { Player, readRecorded } from "./support/recorded.js";

const SESSIONS = new URL("../../../protocol/sessions/", import.meta.url);
const FILES = readdirSync(SESSIONS).filter((name) => name.endsWith(".jsonl"));
/** In these a create opens the session. This client opens before it creates, so it asks for the whole when that comes. */
const CREATE_OPENS = ["03-create-opens.jsonl", "11-duplicate-create.jsonl"];
/** What becomes of the connection, where it does not stay live. */
const REFUSED = ["20-unreadable-message.jsonl", "21-no-hello.jsonl"];

describe("recorded sessions", () => {
  test("there are some", () => {
    expect(FILES.length).toBeGreaterThanOrEqual(26);
    expect(FILES).toEqual(expect.arrayContaining([...CREATE_OPENS, ...REFUSED]));
  });

  test.each(FILES)("%s ends with every terminal proved, without a problem or a needless reopen", (file) => {
    const recorded = readRecorded(new URL(file, SESSIONS));
    const player = new Player(recorded);
    player.play(recorded);

    const healed = CREATE_OPENS.includes(file) ? 1 : 0;
    expect(player.reopens).toHaveLength(healed);
    expect(player.faults).toHaveLength(healed);
    const refused = REFUSED.includes(file);
    for (const { connection } of player.devices.values()) expect(connection.status).toBe(refused ? "refused" : "live");

    const said = new Map(player.log.turns().map(({ accepted, parts, terminal }) => [accepted.turn, { parts, terminal }]));
    for (const { tree, problem } of player.transcripts) {
      expect(problem === undefined || refused).toBe(true);
      for (const turn of tree.all()) {
        const { text, status, proved, unsent } = tree.viewOf(turn);
        const { parts = [], terminal } = said.get(turn.id) ?? {};
        expect(status === "sending").toBe(false);
        expect(unsent === true).toBe(!turn.told);
        expect(proved === true).toBe(turn.terminal !== undefined);
        if (turn.terminal) {
          expect(turn.terminal).toEqual(terminal);
          expect(text).toBe(parts.map(({ kind, text }) => (kind === "text" ? text : "")).join(""));
        }
      }
    }
    // Nothing that the server said was lost on all readers.
    for (const [id, { terminal }] of said) {
      expect(player.transcripts.map(({ tree }) => tree.get(id)?.terminal)).toContainEqual(terminal);
    }
  });
});
