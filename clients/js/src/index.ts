/** The client of Turnwire: see README.md for how it is used, and types.ts for what everything means. */

export { TurnwireError } from "./errors.js";
export { Turnwire } from "./turnwire.js";
export type * from "./types.js";
