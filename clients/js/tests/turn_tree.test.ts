/** The tree of a session's turns: branches, the visible one, turns of this client, and how many are kept. */

import { describe, expect, test } from "vitest";

import type { Transcript } from "../src/transcript.js";
import { turnsOf } from "../src/turn_state.js";
import { accepted, create, done, ended, errorBody, snapshot } from "./support/frames.js";
import { adopt, reader, take, view } from "./support/reader.js";

function ids(transcript: Transcript): string[] {
  return transcript.tree.views().map(({ id }) => id);
}

/** a → b → c, and b2 beside b with its child d, which is the newest. */
function branched(): Transcript {
  return reader([
    ended("a", "1"),
    ended("b", "2", { parent: "a" }),
    ended("c", "3", { parent: "b" }),
    ended("b2", "4", { parent: "a" }),
    ended("d", "5", { parent: "b2" }),
  ]);
}

describe("branches", () => {
  test("the branch of the newest turn is visible, and each turn names its siblings", () => {
    const transcript = branched();
    expect(ids(transcript)).toEqual(["a", "b2", "d"]);
    expect(view(transcript, "b2").siblings).toEqual(["b", "b2"]);
    expect(view(transcript, "a").siblings).toEqual(["a"]);
  });

  test("showing a turn makes its branch the visible one, down to its newest turn", () => {
    const transcript = branched();
    transcript.tree.show("b");
    expect(ids(transcript)).toEqual(["a", "b", "c"]);
    transcript.tree.show("b2");
    expect(ids(transcript)).toEqual(["a", "b2", "d"]);
  });

  test("below the turn that is shown its newest descendants are", () => {
    const transcript = branched();
    take(transcript, accepted("c2", 1, { parent: "b" }));
    transcript.tree.show("c");
    expect(ids(transcript)).toEqual(["a", "b", "c"]);
    transcript.tree.show("b");
    expect(ids(transcript)).toEqual(["a", "b", "c2"]);
  });

  test("a turn that is not there shows the newest branch", () => {
    const transcript = branched();
    transcript.tree.show("nobody");
    expect(ids(transcript)).toEqual(["a", "b2", "d"]);
  });

  test("another device's turn at the end of the visible branch is shown, one on another branch is not", () => {
    const transcript = branched();
    transcript.tree.show("b");
    take(transcript, accepted("e", 1, { parent: "d" }), done("e", 2, []));
    expect(ids(transcript)).toEqual(["a", "b", "c"]);
    take(transcript, accepted("f", 3, { parent: "c" }));
    expect(ids(transcript)).toEqual(["a", "b", "c", "f"]);
  });

  test("several roots are siblings", () => {
    const transcript = reader([ended("a", "1"), ended("b", "2")]);
    expect(ids(transcript)).toEqual(["b"]);
    expect(view(transcript, "b").siblings).toEqual(["a", "b"]);
  });

  test("a circle of parents, which no server makes, ends all the same", () => {
    const transcript = reader([ended("a", "1", { parent: "b" }), ended("b", "2", { parent: "a" })]);
    expect(ids(transcript).sort()).toEqual(["a", "b"]);
    const self = reader([ended("a", "1", { parent: "a" })]);
    expect(ids(self)).toEqual(["a"]);
  });

  test("an empty session has no turns to show", () => {
    expect(ids(reader())).toEqual([]);
    expect(reader().tree.oldest).toBeUndefined();
  });

  test("the view of a turn that was taken out is still to be had", () => {
    const transcript = reader();
    transcript.tree.add(create("mine", { parent: "gone" }), 0);
    const mine = transcript.tree.get("mine");
    transcript.tree.forget("mine");
    expect(mine && transcript.tree.viewOf(mine)).toMatchObject({ id: "mine", siblings: ["mine"] });
  });

  test("the view of a turn is the one in the branch", () => {
    const transcript = branched();
    const d = transcript.tree.get("d");
    expect(d && transcript.tree.viewOf(d)).toBe(view(transcript, "d"));
  });
});

describe("turns of this client", () => {
  test("a turn is there at once, as a child of the parent that it names, and is shown", () => {
    const transcript = branched();
    transcript.tree.add(create("mine", { parent: "c" }), 0);
    expect(ids(transcript)).toEqual(["a", "b", "c", "mine"]);
    expect(view(transcript, "mine")).toMatchObject({ status: "sending", text: "", parent: "c" });
    expect(transcript.tree.busy).toBe(true);
  });

  test("an edit is a sibling of what it edits, also of a root", () => {
    const transcript = branched();
    transcript.tree.add(create("mine", { parent: null }), 0);
    expect(ids(transcript)).toEqual(["mine"]);
    expect(view(transcript, "mine").siblings).toEqual(["a", "mine"]);
  });

  test("a regeneration is a sibling of the turn that it answers anew, with its input", () => {
    const transcript = branched();
    const command = create("mine", { again: "b", model: "demo/slow" });
    delete command.input;
    transcript.tree.add(command, 0);
    expect(ids(transcript)).toEqual(["a", "mine"]);
    expect(view(transcript, "mine")).toMatchObject({
      again: "b",
      parent: "a",
      model: "demo/slow",
      input: [{ text: "question of b" }],
      siblings: ["b", "b2", "mine"],
    });
  });

  test("a regeneration of a turn that is not loaded has no input to show yet", () => {
    const transcript = branched();
    transcript.tree.add({ type: "turn.create", session: "s_1", turn: "mine", again: "earlier" }, 0);
    expect(view(transcript, "mine")).toMatchObject({ input: [], parent: null });
  });

  test("the server's word takes the place of what was guessed", () => {
    const transcript = branched();
    transcript.tree.add(create("mine", { parent: "c" }), 0);
    take(transcript, accepted("mine", 1, { parent: "d", state: "queued" }));
    expect(ids(transcript)).toEqual(["a", "b2", "d", "mine"]);
    expect(view(transcript, "mine").status).toBe("queued");
  });

  test("a turn that the server has told of before is not added again", () => {
    const transcript = branched();
    transcript.tree.add(create("d"), 0);
    expect(view(transcript, "d").status).toBe("done");
  });

  test("turns that were told of come first, whatever was typed before", () => {
    const transcript = branched();
    transcript.tree.add(create("mine", { parent: "d" }), 0);
    take(transcript, accepted("other", 1, { parent: "d" }));
    expect(transcript.tree.all().map(({ id }) => id)).toEqual(["a", "b", "c", "b2", "d", "other", "mine"]);
    expect(view(transcript, "mine").siblings).toEqual(["other", "mine"]);
  });

  test("a turn without a named parent follows the newest turn", () => {
    const transcript = branched();
    transcript.tree.add(create("mine"), 0);
    expect(view(transcript, "mine").parent).toBe("d");
  });

  test("it does so also when the newest turn becomes known later, by a snapshot", () => {
    const transcript = reader();
    transcript.tree.add(create("mine"), 0);
    expect(view(transcript, "mine").parent).toBeNull();
    adopt(transcript, [ended("a", "1"), ended("b", "2", { parent: "a" })], { seq: 9 });
    expect(ids(transcript)).toEqual(["a", "b", "mine"]);
    adopt(transcript, [], { seq: 10 });
    expect(view(transcript, "mine").parent).toBeNull();
  });

  test("it does so also when another device's turn is told", () => {
    const transcript = branched();
    transcript.tree.add(create("mine"), 0);
    take(transcript, accepted("other", 1, { parent: "d" }));
    expect(ids(transcript)).toEqual(["a", "b2", "d", "other", "mine"]);
  });

  test("what is typed offline, one after the other, is seen one after the other", () => {
    const transcript = reader();
    for (const id of ["first", "second", "third"]) transcript.tree.add(create(id), 0);
    expect(ids(transcript)).toEqual(["first", "second", "third"]);
  });

  test("what is typed after a message that was refused does not follow that one", () => {
    const transcript = branched();
    transcript.tree.add(create("refused"), 0);
    const refused = transcript.tree.get("refused");
    if (refused) transcript.tree.fail(refused, errorBody());
    transcript.tree.add(create("mine"), 0);
    expect(ids(transcript)).toEqual(["a", "b2", "d", "mine"]);
  });

  test("a turn that is discarded is seen no more", () => {
    const transcript = branched();
    transcript.tree.add(create("mine"), 0);
    transcript.tree.forget("mine");
    expect(ids(transcript)).toEqual(["a", "b2", "d"]);
    expect(transcript.tree.get("mine")).toBeUndefined();
  });

  test("a refused turn leaves the session idle", () => {
    const transcript = branched();
    transcript.tree.add(create("mine"), 0);
    const mine = transcript.tree.get("mine");
    if (mine) transcript.tree.fail(mine, errorBody());
    expect(transcript.tree.busy).toBe(false);
  });
});

describe("how many are kept", () => {
  test("beyond 1,000 turns the oldest are forgotten, and can be loaded again", () => {
    const transcript = reader();
    let seq = 0;
    for (let number = 0; number < 1_003; number++) {
      take(
        transcript,
        accepted(`t${number}`, ++seq, { parent: number ? `t${number - 1}` : null }),
        done(`t${number}`, ++seq, []),
      );
    }
    expect(transcript.tree.all()).toHaveLength(1_000);
    expect(transcript.tree.oldest).toBe("t3");
    expect(transcript.tree.hasEarlier).toBe(true);
    expect(ids(transcript)[0]).toBe("t3");
    expect(ids(transcript)).toHaveLength(1_000);
  });

  test("an unfinished turn is not forgotten, however old", () => {
    const transcript = reader();
    take(transcript, accepted("t0", 1));
    for (let number = 1; number < 1_002; number++) take(transcript, accepted(`t${number}`, number + 1, { state: "queued" }));
    expect(transcript.tree.oldest).toBe("t0");
    expect(transcript.tree.hasEarlier).toBe(false);
  });

  test("an earlier page stands in front, once", () => {
    const transcript = reader([ended("c", "3", { parent: "b" })]);
    expect(transcript.tree.hasEarlier).toBe(true);
    const known = view(transcript, "c");
    const page = turnsOf([ended("b", "2", { parent: "a" }), ended("c", "3", { parent: "b" })]);
    transcript.tree.prepend(page, true);
    expect(ids(transcript)).toEqual(["b", "c"]);
    expect(transcript.tree.hasEarlier).toBe(true);
    expect(view(transcript, "c")).toBe(known);
    transcript.tree.prepend(turnsOf([ended("a", "1")]), false);
    expect(ids(transcript)).toEqual(["a", "b", "c"]);
    expect(transcript.tree.hasEarlier).toBe(false);
    expect(transcript.tree.oldest).toBe("a");
  });

  test("a page brings nothing that goes on here back to what it was", () => {
    const transcript = reader([snapshot("b", { parent: "a", parts: [{ part: 0, kind: "text", text: "newer" }] })]);
    transcript.tree.prepend(turnsOf([ended("a", "1"), snapshot("b", { parent: "a" })]), false);
    expect(view(transcript, "b").text).toBe("newer");
  });
});

describe("versions", () => {
  test("each change of what can be seen changes the version, and reading changes nothing", () => {
    const transcript = branched();
    const { tree } = transcript;
    const changes: (() => void)[] = [
      () => tree.add(create("mine"), 0),
      () => tree.show("b"),
      () => take(transcript, accepted("e", 1, { parent: "d" })),
      () => take(transcript, done("e", 2, [])),
      () => tree.forget("mine"),
      () => tree.prepend([], false),
      () => adopt(transcript, [], { seq: 9 }),
      () => tree.touch(),
    ];
    for (const change of changes) {
      const { version } = tree;
      tree.views();
      expect(tree.version).toBe(version);
      change();
      expect(tree.version, String(change)).toBeGreaterThan(version);
    }
  });
});
