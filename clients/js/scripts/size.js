// Fails when the client, minified and compressed, is larger than the promise of docs/architecture.md and its README.
import { gzipSync } from "node:zlib";
import { client } from "./bundles.js";

const BYTES_MAX = 8_000;

const { text } = await client();
const bytes = gzipSync(text, { level: 9 }).length;
console.log(`The client: ${bytes} of ${BYTES_MAX} bytes (minified, gzip -9).`);
if (bytes > BYTES_MAX) {
  console.error(`That is ${bytes - BYTES_MAX} bytes too many.`);
  process.exitCode = 1;
}
