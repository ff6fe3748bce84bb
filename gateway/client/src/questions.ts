import { isObject } from "./events.js";

/** A message of a conversation, in the shape of OpenAI's Chat Completions. */
export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content: string | MessagePart[] | null;
  name?: string;
  /** Of a `tool` message: the call that it answers. */
  tool_call_id?: string;
  /** Of an `assistant` message: the calls that it made. */
  tool_calls?: { id: string; type?: "function"; function: { name: string; arguments: string } }[];
}

/** A part of a message that is more than a text. The last two give back what deltas of an earlier answer said. */
export type MessagePart =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string } }
  | { type: "reasoning"; text: string; signature?: string }
  | { type: "provider_data"; dataType: string; data: unknown };

/** How to ask. */
export interface AskOptions {
  /** The model; the gateway's default if there is none. */
  model?: string;
  /** Models to try in this order. */
  models?: string[];
  /** Parameters, such as `temperature`, `max_tokens`, `tools`, `response_format`, and `options` of the provider. */
  params?: Record<string, unknown>;
  /** What the provider is told beside the question. */
  context?: Record<string, unknown>;
  /** Who waits less. */
  priority?: "high" | "default" | "low";
  /** The job's id, 1 to 128 of `A-Za-z0-9_.:-`; a random one if there is none. The same id again is the same job. */
  jobId?: string;
  /** A name by which `find` has the answer again after a page reload. */
  key?: string;
  /** Cancels the job when it aborts. */
  signal?: AbortSignal;
}

/** What to ask: a text, or messages, and how. */
export type Question = AskOptions & ({ query: string; messages?: Message[] } | { query?: string; messages: Message[] });

const sent = ["query", "messages", "model", "models", "params", "context", "priority"] as const;

/** The payload of `search:start:v1`.
 * @internal */
export function payloadOf(question: string | Question, more: AskOptions): { payload: Record<string, unknown>; query: string; options: AskOptions } {
  const whole = { ...(typeof question === "string" ? { query: question } : question), ...more } as Partial<Question>;
  const payload: Record<string, unknown> = {};
  for (const name of sent) if (whole[name] !== undefined) payload[name] = whole[name];
  return { payload, query: whole.query ?? lastText(whole.messages ?? []), options: whole };
}

function lastText(messages: Message[]): string {
  const last = [...messages].reverse().find((m) => m.role === "user")?.content;
  if (!Array.isArray(last)) return last ?? "";
  return last.map((p) => (isObject(p) && p.type === "text" ? p.text : "")).join("");
}

/** A job id that nobody else has. It is no secret: only its owner gets to the job.
 * @internal */
export function newJobId(): string {
  const bytes = new Uint8Array(16);
  const random = (globalThis as { crypto?: Crypto }).crypto;
  if (random) random.getRandomValues(bytes);
  else for (let i = 0; i < bytes.length; i++) bytes[i] = Math.random() * 256; // Node 18
  return "js-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}
