import type { Answer } from "./answer.js";
import type { SluiceError } from "./errors.js";
import type { AnswerStorage } from "./storage.js";

/** A token, or an object with whatever the gateway's authentication wants. */
export type Credentials = string | { token?: string; [name: string]: unknown } | null | undefined;

/** How to connect. */
export interface ConnectOptions {
  /**
   * Who we are: a token, or a function that gives one, which is called for each connection, again when the session is
   * about to end, and with the reason when the gateway has refused what it gave before. It may take its time (ask a
   * person to sign in) and may throw to give up.
   */
  auth?: Credentials | ((refused?: SluiceError) => Credentials | Promise<Credentials>);
  /** Where unfinished answers are kept over a page reload: `sessionStorage` by default in browsers, memory elsewhere. Null: nowhere. */
  storage?: AnswerStorage | null;
  /** The path of the gateway's endpoint; `/socket.io/` by default. */
  path?: string;
  /** `websocket` first and `polling` where that is blocked, by default. */
  transports?: ("websocket" | "polling")[];
  /** How long to wait for the gateway's word on an event before asking again, in ms; 10 s by default. */
  ackTimeout?: number;
  /** How long to be without a connection, in ms, before unfinished answers fail with code `offline`; 5 minutes by default. The time in which a computer sleeps doesn't count. `Infinity`: never. */
  giveUpAfter?: number;
  /** The longest answer taken, in characters of text and deltas; 16,000,000 by default. */
  maxLength?: number;
  /** Shortest and longest pause between two attempts to connect, in ms; 500 and 10,000 by default, spread by half. */
  reconnect?: { min?: number; max?: number };
}

/** A model that is served now. */
export interface Model {
  /** A `*` in it stands for any characters. */
  name: string;
  provider: string;
  runtime?: string;
  reasoning?: boolean;
  tools?: boolean;
  vision?: boolean;
}

/** Whether there is a connection. `refused`: the gateway doesn't let us in, and there is no other token to try. */
export type Connection = "connecting" | "online" | "offline" | "refused" | "closed";

/** What a client tells its listeners, by name. */
export interface SluiceEvents {
  /** The connection came or went. */
  connection: Connection;
  /** The models that are served have become known, or others. */
  models: readonly Model[];
  /** An answer to a question that was asked elsewhere: in another tab. Only while somebody listens are they followed. */
  answer: Answer;
  /** Trouble that belongs to no answer. */
  problem: SluiceError;
}
