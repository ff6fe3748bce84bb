/** Tokens of an answer. */
export interface Usage {
  input: number;
  output: number;
  /** Part of `output` that was thought, not said. */
  reasoning?: number;
  cacheRead?: number;
  cacheWrite?: number;
  /** The provider told counts that can't be; these are the most that can. */
  doubtful?: boolean;
}

/** Times of the last attempt, in ms. */
export interface Timings {
  /** From asking to the attempt's begin. */
  queued: number;
  /** From the attempt's begin to its first chunk. */
  firstChunk: number;
  /** From the attempt's begin to its end. */
  total: number;
}

/** An answer that is whole. */
export interface Result {
  jobId: string;
  text: string;
  /** Tokens of the answer, as the model counts them. */
  tokens: number;
  /** In ms, from asking to the end. */
  duration: number;
  /** `stop`, `length`, `tool_calls`, `content_filter`, `stop_sequence`, `refusal` or another word of the provider. */
  finishReason: string;
  /** Null if the provider doesn't count. */
  usage: Usage | null;
  timings: Timings | null;
  provider: string;
  model: string;
  /** Which execution it was, from 1. */
  attempt: number;
  /** SHA-256 of `text`, in hexadecimal; empty if the host sent none, as very old ones do. */
  digest: string;
  /** Whether `text` was compared with `digest`. It is false only if there was no digest. */
  verified: boolean;
}

/** The model thinks. `signature`, if there is one, comes last and is to be given back unchanged. */
export interface ReasoningDelta { kind: "reasoning"; text: string; signature?: string }
/**
 * A part of a call of a tool: calls are told apart by `index`, `arguments` is the next part of a JSON text. Without
 * `end` a call is whole where its answer is, which it isn't when that ended by `length` or `content_filter`.
 */
export interface ToolCallDelta { kind: "tool_call"; index: number; id?: string; name?: string; arguments: string; end?: boolean }
/** The model declines. */
export interface RefusalDelta { kind: "refusal"; text: string }
/** A source of what was said between the characters `start` and `end`. */
export interface CitationDelta { kind: "citation"; url?: string; title?: string; text?: string; source?: string; start: number; end: number }
/** An image, as base64 or by address. */
export interface ImageDelta { kind: "image"; mediaType?: string; data?: string; url?: string }
/** What only the provider understands, to be given back unchanged. */
export interface ProviderDataDelta { kind: "provider_data"; type: string; data?: unknown }
/** A kind that this version doesn't know: `name` is the kind, `data` its members. */
export interface UnknownDelta { kind: "unknown"; name: string; data: Record<string, unknown> }

/** Everything that is not text of the answer, told apart by `kind`. */
export type Delta = ReasoningDelta | ToolCallDelta | RefusalDelta | CitationDelta | ImageDelta | ProviderDataDelta | UnknownDelta;

/** An attempt begins. */
export interface Start {
  attempt: number;
  provider: string;
  model: string;
}

/** How far a job is that waits or runs. */
export interface Progress {
  /** From 0 to 1. */
  progress: number;
  /**
   * A word: `queued`; in an attempt `started`, `waiting` for the model's first words, or `generating`; after one that
   * failed `limited`, which asks the same model again when it may, or `retrying`, which asks the next. Older workers have
   * words of their own.
   */
  status: string;
  /** A sentence. */
  message: string;
  /** The place in the queue, from 1, while the job stands there and the gateway knows it. */
  position?: number;
  /** How long the queue will take, in ms: a guess by how fast it moves. */
  estimateMs?: number;
}

/** What was given out is void: the answer begins again, with an empty text. */
export interface Reset {
  /**
   * - `attempt`: another attempt begins, on another host or with another model.
   * - `lost`: the gateway's store has lost what we had seen; we take what it has.
   * - `digest`: what had arrived was not what the host had sent; it comes again.
   */
  reason: "attempt" | "lost" | "digest";
  /** The text that is dropped. */
  dropped: string;
}

/** Where a job is. `sending` until the gateway has accepted it, then `queued`, `running` or `waiting` for another attempt. */
export type State = "sending" | "queued" | "running" | "waiting" | "complete" | "failed" | "cancelled";

/** Names of the gateway's events that belong to a job.
 * @internal */
export const jobEvents = [
  "model:start:v1", "model:chunk:v1", "model:delta:v1", "task:progress:v1",
  "model:complete:v1", "model:error:v1", "task:cancelled",
] as const;

/** @internal */
export type JobEvent = (typeof jobEvents)[number];

/** A frame's data as it comes: nothing is certain but that it is an object.
 * @internal */
export type Data = Record<string, unknown>;

/** @internal */
export const text = (v: unknown): string => (typeof v === "string" ? v : "");

/** @internal */
export const number = (v: unknown): number => (typeof v === "number" ? v : 0);

/** @internal */
export const isObject = (v: unknown): v is Data => typeof v === "object" && v !== null && !Array.isArray(v);

const heads = new Set(["jobId", "userId", "attempt", "seq", "fromSeq"]);
const known = new Set(["reasoning", "tool_call", "refusal", "citation", "image", "provider_data"]);

/** Makes a delta of a frame's data.
 * @internal */
export function deltaFrom(d: Data): Delta {
  const body = Object.fromEntries(Object.entries(d).filter(([name]) => !heads.has(name)));
  if (known.has(text(d.kind))) return body as unknown as Delta;
  const { kind, ...data } = body;
  return { kind: "unknown", name: text(kind), data };
}

/** Makes a progress of a frame's data.
 * @internal */
export function progressFrom(d: Data): Progress {
  const [position, estimateMs] = [number(d.position), number(d.estimateMs)];
  return {
    progress: number(d.progress), status: text(d.status), message: text(d.message),
    ...(position > 0 ? { position } : {}), ...(estimateMs > 0 ? { estimateMs } : {}),
  };
}

/** Makes the result of a complete frame's data and the text that has proved to be right.
 * @internal */
export function resultFrom(d: Data, whole: string, verified: boolean, before: { provider: string; model: string; attempt: number }): Result {
  return {
    jobId: text(d.jobId),
    text: whole,
    tokens: number(d.tokens),
    duration: number(d.duration),
    finishReason: text(d.finishReason),
    usage: isObject(d.usage) ? (d.usage as unknown as Usage) : null,
    timings: isObject(d.timings) ? (d.timings as unknown as Timings) : null,
    provider: text(d.provider) || before.provider,
    model: text(d.model) || before.model,
    attempt: number(d.attempt) || before.attempt,
    digest: text(d.digest),
    verified,
  };
}
