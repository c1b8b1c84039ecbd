/**
 * The files that the server serves, made from the sources; the same sources always give the same bytes. Nothing is
 * written here: build.js does that, and size.js only measures.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** @typedef {{ name: string, text: string }} Served */

export const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

/** Each is a file of its own, so that the page loads the very client that others import. */
const SERVED = ["@turnwire/client", "./markdown.js"];

/** @type {import("esbuild").Plugin} */
const served = {
  name: "served",
  setup({ onResolve }) {
    onResolve({ filter: /./ }, ({ path, kind }) => {
      if (kind === "entry-point" || !SERVED.includes(path)) return undefined;
      return { path: path === "@turnwire/client" ? "./turnwire.js" : path, external: true };
    });
  },
};

/** The client: what is published, as one file. */
export async function client() {
  return bundle("turnwire.js", "src/index.ts", "none");
}

/** What of it a page loads at once: all but what speaks HTTP, which comes when it is first asked for. */
export async function core() {
  return bundle("core.js", "src/index.ts", "none", ["./rest.js"]);
}

/**
 * Every file that the build leaves in server/turnwire/web.
 * @returns {AsyncGenerator<Served>}
 */
export async function* bundles() {
  yield await client();
  yield await bundle("markdown.js", "playground/markdown.ts", "eof");
  yield await licences("markdown.LICENSE.txt", ["marked", "dompurify"]);
  yield await bundle("playground.js", "playground/main.ts", "none");
}

/**
 * @param {string} name
 * @param {string} source
 * @param {"none" | "eof"} legalComments
 * @param {string[]} external
 * @returns {Promise<Served>}
 */
async function bundle(name, source, legalComments, external = []) {
  const { outputFiles } = await build({
    absWorkingDir: PACKAGE,
    entryPoints: [source],
    bundle: true,
    write: false,
    minify: true,
    charset: "utf8",
    format: "esm",
    target: "es2022",
    legalComments,
    external,
    plugins: [served],
    logLevel: "silent",
  });
  const [made] = outputFiles;
  if (made === undefined) throw new Error(`esbuild made nothing of ${source}`);
  return { name, text: made.text };
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
