import type { Answer } from "./answer.js";
import { SluiceError } from "./errors.js";
import type { Data } from "./events.js";
import { alwaysTaken, forItsSize, sizeOf } from "./limit.js";

const maxCuts = 2; // connections that are lost while the same large question is on its way

/** The event that asks.
 * @internal */
export const starts = "search:start:v1";

/** What is to be done about one answer.
 * @internal */
export interface Task {
  answer: Answer;
  /** To send until the gateway accepts it; undefined: the job exists. */
  request: Data | undefined;
  sent: boolean; // the request may have reached the gateway
  cancel: boolean; // the job is to be cancelled
  busy: number; // the connection in which an event waits for its ack, 0: none
  way: number; // the connection in which the request was sent and nothing was heard of it, 0: none
  cuts: number; // connections that were lost on that way
  missed: boolean; // frames were found missing meanwhile
  gaps: number; // without a frame in between
  tries: number; // without an ack in between
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** @internal */
export function newTask(answer: Answer, request: Data | undefined, sent: boolean): Task {
  return { answer, request, sent, cancel: false, busy: 0, way: 0, cuts: 0, missed: false, gaps: 0, tries: 0, timer: undefined };
}

/**
 * Gives up the question for which a connection was cut, if there is one: of those that were on their way the largest,
 * when the details say so or it is the second time. Something between us and the gateway doesn't take it; sent for
 * ever it would be cut each time, and every other answer with it.
 * @internal
 */
export function cutFor(tasks: Iterable<Task>, connection: number, details: unknown): void {
  let largest: Task | undefined, size = alwaysTaken;
  for (const task of tasks) {
    if (!task.request || task.way !== connection || task.answer.state !== "sending") continue;
    const n = sizeOf([starts, task.request]);
    if (n > size) [largest, size] = [task, n];
  }
  if (!largest) return;
  largest.cuts++;
  const said = forItsSize(details);
  if (!said && largest.cuts < maxCuts) return;
  const why = said ? "for its size" : `${largest.cuts} times while it was sent`;
  largest.answer.fail(new SluiceError("request_too_large", `the request has ${size} bytes, and the connection was cut ${why}`));
}
