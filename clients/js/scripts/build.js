/**
 * Builds the files of server/turnwire/web that come from here. They are committed, so that nobody needs Node to run the
 * server; with --check nothing is written, and a file that is not what the sources give is an error.
 */
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { bundles } from "./bundles.js";

const WEB = fileURLToPath(new URL("../../../server/turnwire/web/", import.meta.url));
const checking = process.argv.includes("--check");

const stale = [];
for await (const { name, text } of bundles()) {
  if (!checking) await writeFile(WEB + name, text);
  else if (text !== (await readFile(WEB + name, "utf8").catch(() => undefined))) stale.push(name);
}
if (stale.length > 0) {
  console.error(`Not what clients/js gives: ${stale.join(", ")} in server/turnwire/web. Run \`make client\` and commit it.`);
  process.exitCode = 1;
}
