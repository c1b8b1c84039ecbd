/**
 * A server that does exactly what a test says: it accepts WebSockets and HTTP calls on a free port, keeps what comes in
 * and sends what it is told. It never answers by itself; what a real log would hold is story.ts.
 *
 *     const peer = await server.accepted();         // the next connection
 *     const hello = await peer.expect("hello");     // its next frame, which must be of this type
 *     peer.say({ type: "welcome", ... });
 */

import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import type { Command, ErrorBody, ServerFrame, Welcome } from "../../src/wire.js";

export const WELCOME: Welcome = {
  type: "welcome",
  connection: "c_1",
  user: "anonymous",
  features: [],
  models: ["demo", "demo/slow"],
  limits: {
    frame_bytes_max: 1_048_576,
    input_bytes_max: 480_000,
    frames_per_s: 50,
    bytes_per_s: 1_000_000,
    sessions_open_max: 100,
    turns_running_max: 8,
    history_turns_max: 200,
  },
  ping_ms: 20_000,
  terminal_within_ms: 15_000,
};

/** What was not asked for yet waits for whoever asks; whoever asks first is served first. */
class Queue<Item> {
  readonly #items: Item[] = [];
  readonly #askers: ((item: Item) => void)[] = [];

  put(item: Item): void {
    const asker = this.#askers.shift();
    if (asker) asker(item);
    else this.#items.push(item);
  }

  next(): Promise<Item> {
    const item = this.#items.shift();
    return item === undefined ? new Promise((resolve) => this.#askers.push(resolve)) : Promise.resolve(item);
  }
}

type Of<Type extends Command["type"]> = Extract<Command, { type: Type }>;

/** One accepted connection. */
export class Peer {
  /** How it asked for the upgrade. */
  readonly request: IncomingMessage;
  readonly received: Command[] = [];
  /** The close code that the client sent; 1006 where it sent none. */
  readonly gone: Promise<number>;
  readonly #socket: WebSocket;
  readonly #incoming = new Queue<Command>();

  constructor(socket: WebSocket, request: IncomingMessage) {
    this.#socket = socket;
    this.request = request;
    this.gone = new Promise((resolve) => socket.on("close", resolve));
    socket.on("message", (data) => {
      const frame = JSON.parse(String(data)) as Command;
      this.received.push(frame);
      this.#incoming.put(frame);
    });
  }

  next(): Promise<Command> {
    return this.#incoming.next();
  }

  /** Its next frame, which must be of this type: so nothing else came before. */
  async expect<Type extends Command["type"]>(type: Type): Promise<Of<Type>> {
    const frame = await this.next();
    if (frame.type !== type) throw new Error(`expected ${type}, came ${JSON.stringify(frame)}`);
    return frame as Of<Type>;
  }

  say(...frames: ServerFrame[]): void {
    for (const frame of frames) this.#socket.send(JSON.stringify(frame));
  }

  /** Something that is no frame, or none that this version knows. */
  sayRaw(data: string | Uint8Array): void {
    this.#socket.send(data);
  }

  /** Take the hello and answer it. */
  async greet(fields: Partial<Welcome> = {}): Promise<Of<"hello">> {
    const hello = await this.expect("hello");
    this.say({ ...WELCOME, ...fields });
    return hello;
  }

  refuse(command: Command, error: Partial<ErrorBody> & Pick<ErrorBody, "code">): void {
    const { session, turn } = command as { session?: string; turn?: string };
    this.say({
      type: "error",
      error: { message: `It is ${error.code}.`, retry: "none", ...error },
      ...(command.id && { reply_to: command.id }),
      ...(session && { session }),
      ...(turn && { turn }),
    });
  }

  /** The connection ends as when a cable is pulled. */
  cut(): void {
    this.#socket.terminate();
  }

  close(code: number): void {
    this.#socket.close(code);
  }
}

/** One HTTP call, which waits for its answer. */
export class Call {
  readonly method: string;
  readonly path: string;
  readonly query: Record<string, string>;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly #response: ServerResponse;

  constructor(request: IncomingMessage, body: string, response: ServerResponse) {
    this.body = body;
    const url = new URL(request.url as string, "http://server");
    this.method = request.method as string;
    this.path = url.pathname;
    this.query = Object.fromEntries(url.searchParams);
    this.headers = request.headers;
    this.#response = response;
  }

  answer(status: number, body?: unknown): void {
    this.answerRaw(status, body === undefined ? "" : JSON.stringify(body));
  }

  answerRaw(status: number, body: string): void {
    this.#response.writeHead(status).end(body);
  }

  cut(): void {
    this.#response.destroy();
  }
}

export class ScriptedServer {
  /** How many WebSockets were accepted. */
  connections = 0;
  /** What an upgrade is answered with instead of a WebSocket, where set: an HTTP status line's number and words. */
  refusal: string | undefined;
  readonly #http: Server;
  readonly #sockets = new WebSocketServer({ noServer: true });
  readonly #accepted = new Queue<Peer>();
  readonly #called = new Queue<Call>();
  readonly #refused = new Queue<true>();

  private constructor() {
    this.#http = createServer((request, response) => void this.#take(request, response));
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  /** Listens on a free port of this machine. */
  static async start(): Promise<ScriptedServer> {
    const server = new ScriptedServer();
    await new Promise<void>((listening) => server.#http.listen(0, "127.0.0.1", listening));
    return server;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#http.address() as AddressInfo).port}/v1/ws`;
  }

  /** The next connection that a client made. */
  accepted(): Promise<Peer> {
    return this.#accepted.next();
  }

  /** The next HTTP call. */
  called(): Promise<Call> {
    return this.#called.next();
  }

  /** Until an upgrade was answered with `refusal`. */
  refused(): Promise<true> {
    return this.#refused.next();
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#http.closeAllConnections();
    await new Promise((closed) => this.#http.close(closed));
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const piece of request) body += String(piece);
    this.#called.put(new Call(request, body, response));
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (this.refusal) {
      // Whoever is refused may leave without reading why.
      socket.on("error", () => {});
      socket.end(`HTTP/1.1 ${this.refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
      this.#refused.put(true);
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (accepted) => {
      this.connections++;
      this.#accepted.put(new Peer(accepted, request));
    });
  }
}
