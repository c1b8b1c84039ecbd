/** What this client rejects with. */

import { camel } from "./names.js";
import type { ErrorBody } from "./wire.js";

/** An error in the wire's words, for what ends here. `message` is a sentence for users. */
export function because(
  message: string,
  code: ErrorBody["code"] = "internal",
  retry: ErrorBody["retry"] = "none",
): ErrorBody {
  return { code, message, retry };
}

/** `code` and `retry` as in docs/protocol.md, section 10; `message` is a sentence for users. */
export class TurnwireError extends Error {
  declare readonly code: ErrorBody["code"];
  declare readonly retry: ErrorBody["retry"];
  declare readonly retryAfterMs?: number;
  /** Of the HTTP response, where there was one. */
  readonly status: number | undefined;

  constructor({ message, ...why }: ErrorBody, status?: number) {
    super(message);
    this.name = "TurnwireError";
    this.status = status;
    Object.assign(this, camel(why));
  }
}
