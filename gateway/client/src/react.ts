/**
 * Sluice for React, 18 or later.
 *
 * @packageDocumentation
 */
import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import type { Answer, Snapshot } from "./answer.js";
import type { AskOptions, Question } from "./questions.js";
import type { Sluice } from "./sluice.js";

/** What `useAnswer` gives: the answer at this moment, empty before the first question, and what can be done. */
export interface UseAnswer extends Omit<Snapshot, "state"> {
  /** Where the job is; `idle` before the first question. */
  readonly state: Snapshot["state"] | "idle";
  /** The answer itself, null before the first question. */
  readonly answer: Answer | null;
  /** Whether more is to come. */
  readonly busy: boolean;
  /** Asks, in place of the question before, which is not cancelled by it. */
  ask(question: string | Question, options?: AskOptions): Answer;
  /** Cancels the job, if it runs. */
  cancel(): void;
}

const idle = Object.freeze({
  jobId: "", query: "", state: "idle" as const, text: "", deltas: Object.freeze([]), attempt: 0, provider: "", model: "",
  progress: null, result: null, error: null,
});

/**
 * One question and its answer, drawn anew as it grows. After a page reload it goes on with the answer that was asked
 * for under the same key. A component that goes leaves the job alone.
 *
 * @param sluice made once, outside the component. Null, as in a server's rendering, gives an idle answer.
 * @param key tells several uses on one page apart.
 */
export function useAnswer(sluice: Sluice | null, key = "answer"): UseAnswer {
  const [answer, setAnswer] = useState<Answer | null>(() => sluice?.find(key) ?? null);
  useEffect(() => setAnswer(sluice?.find(key) ?? null), [sluice, key]);

  const subscribe = useCallback((changed: () => void) => answer?.on("change", changed) ?? (() => {}), [answer]);
  const now = useSyncExternalStore<Snapshot | typeof idle>(subscribe, () => answer?.snapshot() ?? idle, () => idle);
  const ask = useCallback((question: string | Question, options: AskOptions = {}) => {
    if (!sluice) throw new TypeError("useAnswer: there is no client to ask");
    const asked = sluice.ask(question, { ...options, key });
    setAnswer(asked);
    return asked;
  }, [sluice, key]);
  const cancel = useCallback(() => void answer?.cancel(), [answer]);
  return { ...now, answer, busy: now.state !== "idle" && answer !== null && !answer.over, ask, cancel };
}
