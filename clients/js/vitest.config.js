// The tests of the client and how much of it they must reach.
import { defineConfig } from "vitest/config";

// Pure parts: frames, events and times in, values out. Nothing excuses a branch of them that no test takes.
const PURE = ["connection", "crc32", "transcript", "turn_state", "turn_tree"];

const most = { branches: 90, functions: 90, lines: 90, statements: 90 };

export default defineConfig({
  test: {
    include: ["tests/**/*.test.ts", "playground/**/*.test.ts"],
    // The properties draw thousands of cases, and continuous integration may be slow.
    testTimeout: 60_000,
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      // Types only: nothing of them is left to run.
      exclude: ["src/types.ts", "src/wire.ts"],
      reporter: [["text", { skipFull: true }]],
      thresholds: {
        [`src/{${PURE.join(",")}}.ts`]: { 100: true, perFile: true },
        [`src/!(${PURE.join("|")}).ts`]: most,
      },
    },
  },
});
