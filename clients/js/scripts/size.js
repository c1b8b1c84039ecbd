// Fails when the client's core, minified and compressed, is larger than its README says.
import { gzipSync } from "node:zlib";
import { client, core } from "./bundles.js";

const BYTES_MAX = 8_000;

const [bytes, whole] = (await Promise.all([core(), client()])).map(({ text }) => gzipSync(text, { level: 9 }).length);
if (bytes === undefined) throw new Error("nothing was built");
console.log(`The client's core: ${bytes} of ${BYTES_MAX} bytes (minified, gzip -9); with the HTTP calls ${whole}.`);
if (bytes > BYTES_MAX) {
  console.error(`That is ${bytes - BYTES_MAX} bytes too many.`);
  process.exitCode = 1;
}
