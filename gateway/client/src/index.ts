/**
 * Asks Sluice and follows the answer, through lost connections and page reloads.
 *
 * @packageDocumentation
 */
export { connect, Sluice } from "./sluice.js";
export type { ConnectOptions, Connection, Credentials, Model, SluiceEvents } from "./options.js";
export { Answer } from "./answer.js";
export type { AnswerEvents, Snapshot } from "./answer.js";
export type { AskOptions, Message, MessagePart, Question } from "./questions.js";
export { SluiceError } from "./errors.js";
export type { ErrorCode, Fault } from "./errors.js";
export { memoryStorage, webStorage } from "./storage.js";
export type { AnswerStorage, Saved, WebStorage } from "./storage.js";
export type {
  CitationDelta, Delta, ImageDelta, Progress, ProviderDataDelta, ReasoningDelta, RefusalDelta, Reset, Result, Start, State, Timings,
  ToolCallDelta, UnknownDelta, Usage,
} from "./events.js";
