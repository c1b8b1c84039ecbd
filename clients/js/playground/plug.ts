/**
 * The plug: sockets that can be cut as a pulled cable would cut them. From that moment nothing goes out and nothing
 * comes in, not even what is on its way, and the client sees close code 1006.
 */

const ABNORMAL = 1006;

class CutSocket extends WebSocket {
  #cut = false;

  constructor(url: string, protocols: string[]) {
    super(url, protocols);
    // These listeners come before all others, so that a socket that was cut is silent.
    for (const type of ["open", "message", "error", "close"])
      this.addEventListener(type, (event) => {
        if (this.#cut && event.isTrusted) event.stopImmediatePropagation();
      });
  }

  override send(data: string | BufferSource | Blob): void {
    if (!this.#cut) super.send(data);
  }

  cut(): void {
    this.#cut = true;
    Object.defineProperty(this, "readyState", { value: WebSocket.CLOSED });
    super.close();
    this.dispatchEvent(new CloseEvent("close", { code: ABNORMAL, wasClean: false }));
  }
}

export class Plug {
  /** For the client's option of this name. */
  readonly webSocket: new (url: string, protocols: string[]) => WebSocket;
  #socket: CutSocket | null = null;

  constructor() {
    const onSocket = (socket: CutSocket): CutSocket => (this.#socket = socket);
    this.webSocket = class extends CutSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        onSocket(this);
      }
    };
  }

  /** Cut the connection. False if there is none. */
  pull(): boolean {
    const socket = this.#socket;
    if (!socket || socket.readyState !== WebSocket.OPEN) return false;
    socket.cut();
    return true;
  }
}
