import type { Manager } from "socket.io-client";
import { SluiceError } from "./errors.js";
import { isObject } from "./events.js";

/** No gateway's limit is below this: what is smaller is never too large. In bytes.
 * @internal */
export const alwaysTaken = 64 << 10;

const heads = 20; // bytes: the types of the packet and the message, and the number of its ack

/**
 * Bytes of the message that carries an event (or the data of a handshake), or a few more.
 * @internal
 */
export function sizeOf(data: unknown): number {
  const json = JSON.stringify(data) ?? "";
  let size = json.length + heads;
  for (let i = 0; i < json.length; i++) {
    const c = json.charCodeAt(i);
    if (c >= 0x80) size += c < 0x800 || (c >= 0xd800 && c < 0xe000) ? 1 : 2; // half a pair stands for two of four bytes
  }
  return size;
}

/** @internal */
export function tooLarge(size: number, limit: number): SluiceError {
  return new SluiceError("request_too_large", `the request has ${size} bytes, at most ${limit} are allowed`);
}

/**
 * Calls told with the largest message that the gateway takes, in bytes, at each connection: before anything can be
 * sent over it. Infinity if the gateway doesn't say.
 * @internal
 */
export function onLimit(manager: Manager, told: (limit: number) => void): void {
  // Each connection has an engine of its own, which tells of its handshake once.
  const open = manager.open.bind(manager);
  manager.open = (then) => {
    open(then);
    manager.engine.once("handshake", ({ maxPayload }) => told(maxPayload > 0 ? maxPayload : Infinity));
    return manager;
  };
}

/**
 * Whether the details of a lost connection say that what was sent is too large: WebSocket's close code, or the status
 * of a POST.
 * @internal
 */
export function forItsSize(details: unknown): boolean {
  if (!isObject(details)) return false;
  return (isObject(details.context) && details.context.code === 1009) || details.description === 413;
}
