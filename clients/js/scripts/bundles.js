/**
 * The files that the server serves, made from the sources; the same sources always give the same bytes. Nothing is
 * written here: build.js does that, and size.js only measures.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

/** @typedef {{ name: string, text: string }} Served */

export const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

/** Each is a file of its own, so that the page loads the very client that others import. */
const SERVED = new Map([
  ["@turnwire/client", "./turnwire.js"],
  ["./markdown.js", "./markdown.js"],
]);

/** The client: what is published, as one file. */
export async function client() {
  return bundle("turnwire.js", "src/index.ts");
}

/** What of it a page loads at once: all but what speaks HTTP, which comes when it is first asked for. */
export async function core() {
  return bundle("core.js", "src/index.ts", ["./rest.js"]);
}

/**
 * Every file that the build leaves in server/turnwire/web.
 * @returns {AsyncGenerator<Served>}
 */
export async function* bundles() {
  yield await client();
  yield await bundle("markdown.js", "playground/markdown.ts");
  yield await licences("markdown.LICENSE.txt", ["marked", "dompurify"]);
  yield await bundle("playground.js", "playground/main.ts");
}

/**
 * @param {string} name
 * @param {string} source
 * @param {string[]} external
 * @returns {Promise<Served>}
 */
async function bundle(name, source, external = []) {
  const made = await rolldown({
    cwd: PACKAGE,
    input: source,
    external: (id, importer) => importer !== undefined && (SERVED.has(id) || external.includes(id)),
    // The sources import each other as they are called once compiled.
    resolve: { extensionAlias: { ".js": [".ts", ".js"] } },
    transform: { target: "es2022" },
    onLog(level, log) {
      throw new Error(`${level}: ${log.message}`);
    },
  });
  const { output } = await made.generate({
    format: "esm",
    minify: true,
    codeSplitting: false,
    comments: { legal: true, annotation: false, jsdoc: false },
    paths: Object.fromEntries(SERVED),
  });
  await made.close();
  return { name, text: output[0].code };
}

/**
 * What the authors of bundled packages ask to go along with their work.
 * @param {string} name
 * @param {string[]} packages
 * @returns {Promise<Served>}
 */
async function licences(name, packages) {
  const texts = ["markdown.js holds these packages. Each comes with its licence:\n"];
  for (const bundled of packages) {
    const folder = `${PACKAGE}node_modules/${bundled}`;
    const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
    const text = (await readFile(`${folder}/LICENSE`, "utf8")).replaceAll("\r\n", "\n").trim();
    texts.push(`--- ${bundled} ${version} (${license}) ---\n\n${text}\n`);
  }
  return { name, text: texts.join("\n") };
}
