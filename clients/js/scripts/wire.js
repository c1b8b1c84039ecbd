/**
 * Writes src/wire.ts, the frames' types, from protocol/schema; with --check it only says whether the file is what the
 * schema gives. The types say what travels, not what is allowed: bounds and patterns stay in the schema.
 */
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { compile } from "json-schema-to-typescript";

/** @typedef {import("json-schema-to-typescript").JSONSchema} Schema */

const SCHEMAS = new URL("../../../protocol/schema/", import.meta.url);
const WIRE = fileURLToPath(new URL("../src/wire.ts", import.meta.url));
const LINE_MAX = 120;
const BANNER = `/**
 * Made from protocol/schema by scripts/wire.js (\`make schema\`): the frames, as they travel. Fields that are not named
 * here may come and are to be ignored.
 */`;

async function written() {
  /** @type {Record<string, Schema>} */
  const types = {};
  /** @type {Record<string, Schema>} */
  const properties = {};
  for (const [file, union] of /** @type {const} */ ([["commands", "Command"], ["events", "ServerFrame"]])) {
    const { $defs, oneOf } = JSON.parse(await readFile(new URL(`${file}.schema.json`, SCHEMAS), "utf8"));
    Object.assign(types, $defs, { [union]: { oneOf } });
    properties[union] = { $ref: `#/$defs/${union}` };
  }
  return polished(
    await compile({ $defs: types, type: "object", properties }, "Wire", {
      bannerComment: BANNER,
      additionalProperties: false,
      ignoreMinAndMaxItems: true,
      unreachableDefinitions: true,
      style: { printWidth: LINE_MAX },
    }),
  );
}

/**
 * The generator's text without what it adds for itself, a blank line between types, and short comments on one line.
 * @param {string} text
 */
function polished(text) {
  return text
    .replace(/export interface Wire \{[^}]*\}\n/, "")
    .replace("export type JsonValue = unknown;\n", "")
    .replaceAll("JsonValue", "unknown")
    .replaceAll(/\{\n\s*\[k: string\]: unknown;\n\s*\}/g, "Record<string, unknown>")
    .replaceAll(/ \* This interface was referenced by `\w+`'s JSON-Schema\n \* via the `definition` "\w+"\.\n/g, "")
    .replaceAll(/^ *\* @(?:min|max)Items \d+\n/gm, "")
    .replaceAll(/^ *\/\*\*\n *\*\/\n/gm, "")
    .replaceAll(/\n \*\n \*\//g, "\n */")
    .replaceAll(/^( *)\/\*\*\n *\* (.*)\n *\*\/$/gm, (whole, indent, line) => {
      const short = `${indent}/** ${line} */`;
      return short.length <= LINE_MAX ? short : whole;
    })
    .replaceAll(/^(\}|.*;)\n+(?=\/\*\*|export )/gm, "$1\n\n");
}

const text = await written();
if (!process.argv.includes("--check")) await writeFile(WIRE, text);
else if (text !== (await readFile(WIRE, "utf8").catch(() => undefined))) {
  console.error("clients/js/src/wire.ts is not what protocol/schema says: run `make schema` and commit it.");
  process.exitCode = 1;
}
