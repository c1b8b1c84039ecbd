/**
 * Packs the package as npm would publish it and looks at what came out: all of dist/, the two texts and not one file too
 * many, and nothing in it that a bundler or an older Node stumbles over.
 */
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { PACKAGE } from "./bundles.js";

/** @typedef {{ filename: string, files: { path: string }[] }} Packed */

const npm = process.env["npm_execpath"];
if (npm === undefined) throw new Error("npm runs this script: `npm run pack`");

const folder = await mkdtemp(join(tmpdir(), "turnwire-client-"));
try {
  const said = execFileSync(process.execPath, [npm, "pack", "--json", "--pack-destination", folder], { cwd: PACKAGE });
  /** @type {[Packed]} */
  const [{ filename, files }] = JSON.parse(said.toString());
  const wrong = [
    ...(await surprises(files.map(({ path }) => path))),
    ...(await faults(await readFile(join(folder, filename)))),
  ];
  for (const sentence of wrong) console.error(sentence);
  if (wrong.length > 0) process.exitCode = 1;
} finally {
  await rm(folder, { recursive: true });
}

/** @param {string[]} files */
async function surprises(files) {
  const modules = (await readdir(`${PACKAGE}src`)).map((file) => file.replace(/\.ts$/, ""));
  const compiled = modules.flatMap((name) => [`dist/${name}.js`, `dist/${name}.d.ts`]);
  const found = new Set(files);
  const expected = new Set(["LICENSE", "README.md", "package.json", ...compiled]);
  return [
    ...[...found.difference(expected)].map((path) => `${path} would be published and should not.`),
    ...[...expected.difference(found)].map((path) => `${path} would not be published and should.`),
  ];
}

/** @param {Buffer} tarball */
async function faults(tarball) {
  const bytes = new Uint8Array(tarball).buffer;
  const { messages, pkg } = await publint({ pack: { tarball: bytes }, strict: true });
  return messages
    .filter(({ type }) => type !== "suggestion")
    .map((message) => `publint: ${formatMessage(message, pkg ?? {}, { color: false }) ?? message.code}`);
}
