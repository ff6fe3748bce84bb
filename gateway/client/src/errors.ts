/**
 * What went wrong, for a program to branch on. Beside these come the codes of providers and hosts, such as
 * `limited`, `unavailable` or `truncated`: whatever `model:error:v1` says.
 *
 * - `invalid_payload`, `query_missing`, `query_too_long`, `request_too_large`, `unknown_model`, `invalid_job_id`:
 *   the gateway refuses the question. What is too large for it is not even sent, as far as it has told its limit.
 * - `not_found`: there is no such job, or it is somebody else's, or its record has expired.
 * - `unauthorized`: the gateway doesn't accept the token, or it is too large.
 * - `limit_reached`, `rate_limited`, `too_many_jobs`, `too_many_connections`: more than we may have at a time.
 * - `unavailable`, `internal`: the gateway can't now.
 * - `too_slow`: the connection didn't take what it watched. It is made again, and goes on where it was.
 * - `offline`: there was no connection for as long as `giveUpAfter` says.
 * - `cancelled`: the job was cancelled, in this tab or another.
 * - `reset`: an iteration had given out text that a new attempt has made void.
 * - `digest_mismatch`: what arrived is not what the host sent, also when asked for again.
 * - `protocol`: frames are missing, also when asked for again.
 * - `too_long`: the answer is longer than `maxLength`.
 * - `closed`: this client was closed before the answer was whole. The job goes on.
 */
export type ErrorCode =
  | "invalid_payload" | "query_missing" | "query_too_long" | "request_too_large" | "unknown_model" | "invalid_job_id"
  | "not_found" | "unauthorized" | "limit_reached" | "rate_limited" | "too_many_jobs" | "too_many_connections" | "unavailable" | "internal" | "too_slow"
  | "offline" | "cancelled" | "reset" | "digest_mismatch" | "protocol" | "too_long" | "closed"
  | (string & {});

/** Whose fault it is: who asks, the model's service, its plugin, or Sluice and the way to it. */
export type Fault = "caller" | "upstream" | "plugin" | "host";

/** Why there is no answer, or no whole one. Everything this package throws or rejects with is one of these. */
export class SluiceError extends Error {
  override readonly name = "SluiceError";
  /** For a program to branch on. */
  readonly code: ErrorCode;
  /** Whether asking again may succeed. */
  readonly retryable: boolean;
  /** Whose fault it is. */
  readonly fault: Fault;
  /** How long to wait before asking again, in ms, if the gateway said so. */
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, more: { retryable?: boolean; fault?: Fault; retryAfterMs?: number | undefined } = {}) {
    super(message);
    this.code = code;
    this.retryable = more.retryable ?? (retryableCodes.has(code) || more.retryAfterMs !== undefined);
    this.fault = more.fault ?? (hostCodes.has(code) ? "host" : "caller");
    this.retryAfterMs = more.retryAfterMs;
  }

  /** The members as plain data: an Error's own message is not seen by `JSON.stringify`. */
  toJSON(): { name: string; code: string; message: string; retryable: boolean; fault: Fault } {
    const { name, code, message, retryable, fault } = this;
    return { name, code, message, retryable, fault };
  }
}

const retryableCodes = new Set<string>(["limit_reached", "rate_limited", "too_many_jobs", "too_many_connections", "unavailable", "internal", "too_slow", "offline", "reset", "digest_mismatch", "protocol", "closed"]);
const hostCodes = new Set<string>(["unavailable", "internal", "offline", "reset", "digest_mismatch", "protocol"]);

/**
 * Makes an error of what the gateway says: an ack's `error` or the data of an event.
 * @internal
 */
export function errorFrom(said: unknown): SluiceError {
  const e = (typeof said === "object" && said !== null ? said : {}) as Record<string, unknown>;
  const code = typeof e.code === "string" && e.code !== "" ? e.code : "internal";
  const message = typeof e.message === "string" && e.message !== "" ? e.message : code;
  return new SluiceError(code, message, {
    ...(typeof e.retryable === "boolean" ? { retryable: e.retryable } : {}),
    ...(isFault(e.fault) ? { fault: e.fault } : {}),
    retryAfterMs: typeof e.retryAfterMs === "number" ? e.retryAfterMs : undefined,
  });
}

function isFault(f: unknown): f is Fault {
  return f === "caller" || f === "upstream" || f === "plugin" || f === "host";
}
