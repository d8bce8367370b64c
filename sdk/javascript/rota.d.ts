// Types of what an agent in JavaScript or TypeScript gets. docs/SDK.md describes it.

declare module "rota" {
  /** Bytes and texts travel as they are, any other value as MessagePack. */
  export type Payload = string | ArrayBuffer | ArrayBufferView | Value;
  /** What MessagePack holds. Integers beyond 2**53 are a `bigint`, bytes a `Uint8Array`; a map with other keys is a `Map`. */
  export type Value = null | undefined | boolean | number | bigint | string | Uint8Array | Value[] | { [key: string]: Value } | Map<Value, Value> | Set<Value>;
  export type Dtype =
    | "bool" | "uint8" | "uint16" | "uint32" | "uint64" | "int8" | "int16" | "int32" | "int64"
    | "float16" | "float32" | "float64" | "bfloat16" | "complex64" | "complex128"
    | "float8_e4m3fn" | "float8_e4m3fnuz" | "float8_e5m2" | "float8_e5m2fnuz";
  export type Elements = Uint8Array | Uint16Array | Uint32Array | BigUint64Array | Int8Array | Int16Array | Int32Array | BigInt64Array | Float32Array | Float64Array;

  /** An array that travels beside the payload. */
  export interface Tensor {
    readonly index: number;
    /** Hexadecimal; undefined for one that this task made. */
    readonly digest: string | undefined;
    readonly dtype: Dtype;
    readonly shape: readonly number[];
    /** The number of elements. */
    readonly length: number;
    /** Up to `size` bytes of the data from byte `offset` on. */
    read(offset?: number, size?: number): Uint8Array;
    /** All elements, as the typed array of the dtype; bytes for a dtype that JavaScript lacks. */
    array(): Elements;
  }

  export interface Message {
    readonly kind: "tell" | "ask" | "reply" | "failure" | "timer";
    /** The address of an agent; null: a producer. */
    readonly sender: string | null;
    readonly payload: Uint8Array;
    /** The payload as UTF-8. Throws a TypeError if it is none. */
    readonly text: string;
    /** The payload as one MessagePack value. Throws a RangeError if it is none. */
    readonly value: any;
    readonly turn: number;
    /** Milliseconds since 1970. */
    readonly now_ms: number;
    /** 32 bytes, from which chance is seeded. */
    readonly entropy: Uint8Array;
    /** What a reply or failure answers; `emit` is what `ask` returned. */
    readonly reply_to: { turn: number; asked_in: number; emit: number } | null;
    readonly tensors: readonly Tensor[];
    /** The agent's own address, name or name/key. */
    readonly address: string;
  }

  export interface SendOptions {
    /** -8 to 7. */
    priority?: number;
    tensors?: readonly Tensor[];
  }

  export interface AskOptions extends SendOptions {
    /** Milliseconds after which the ask fails with the kind `expired`, if it is not answered. */
    deadline_ms?: number;
  }

  /** What the handlers of agents and flows have in common. What they are told to do takes place when they are done, all of it or none. */
  interface Verbs {
    /** The message; of a flow the one that has called it. */
    readonly message: Message;
    /** Send a message that gets no answer. */
    emit(target: string, payload: Payload, options?: SendOptions): number;
    /** End the task, or the call, as failed: the state stays as it was, and nothing is sent. */
    fail(code: string, message?: string): never;
    /** Write a line into the task's log, as console.log does. */
    log(...values: unknown[]): void;
    /** Make a tensor, for the result or for a message. */
    tensor(dtype: Dtype, shape: readonly number[], data: Data): Tensor;
  }

  export type Data = readonly number[] | readonly bigint[] | ArrayBuffer | ArrayBufferView;

  /** What the handler of an agent gets. */
  export interface Context<State = any> extends Verbs {
    /** Null at first. Written back as MessagePack if it is another value than before. */
    state: State | null;
    /** Send a message whose outcome comes back as `reply` or `failure`. Returns its index: `reply_to.emit` of the answer. */
    ask(target: string, payload: Payload, options?: AskOptions): number;
    /** Send a message of kind `timer` to this agent itself after a delay. */
    timer(delay_ms: number, payload?: Payload, options?: SendOptions): number;
    /** Give the task its result. */
    reply(payload: Payload, options?: { tensors?: readonly Tensor[] }): void;
    /** Answer this message later: `settle`, `settleFailure` or `handOn` with the turn that this returns. Then `reply` may not be called. */
    postpone(): number;
    /** Answer a turn that this agent has postponed. */
    settle(turn: number, payload: Payload, options?: { tensors?: readonly Tensor[] }): void;
    /** Answer a turn that this agent has postponed with a failure. */
    settleFailure(turn: number, code: string, message?: string): void;
    /** Let another one answer: of this message, or of a turn that this agent has postponed. A deadline can only bring that of whoever waits forward. */
    handOn(target: string, payload: Payload, options?: AskOptions & { turn?: number }): void;
  }

  /** What an ask gave. */
  export interface Answer {
    readonly payload: Uint8Array;
    /** The payload as UTF-8. Throws a TypeError if it is none. */
    readonly text: string;
    /** The payload as one MessagePack value. Throws a RangeError if it is none. */
    readonly value: any;
    readonly tensors: readonly Tensor[];
    /** The address of who answered. */
    readonly sender: string | null;
    /** The turn of the message that brought it. */
    readonly turn: number;
  }

  /** The options of an ask to a model that takes texts or arrays; what else a call has is in docs/PROTOCOL.md and docs/MODELS.md. */
  export interface ModelOptions {
    priority?: number;
    deadline_ms?: number;
  }

  export interface GenerateOptions extends ModelOptions {
    /** Continued as it is; or give `messages`. */
    prompt?: string;
    messages?: readonly { role: "system" | "user" | "assistant" | "tool"; content: string; [field: string]: Value }[];
    max_tokens?: number;
    temperature?: number;
    seed?: number;
    stop?: readonly string[];
    [field: string]: unknown;
  }

  export interface Generated {
    text: string;
    tokens: number[];
    finish: "stop" | "length" | "tool_calls";
    stop: string | number | null;
    usage: { prompt: number; generated: number };
    [field: string]: any;
  }

  /** What a flow gets. Each call of a flow has its own; a promise that is rejected throws `AskFailed` where it is awaited. */
  export interface FlowContext extends Verbs {
    /** Ask an agent, a flow or a model. */
    ask(target: string, payload: Payload, options?: AskOptions): Promise<Answer>;
    /** Wait. The time passes outside, so the call needs no worker meanwhile. */
    sleep(delay_ms: number): Promise<void>;
    /** Have a language model write. */
    generate(model: string, options: GenerateOptions): Promise<Generated>;
    /** Return a vector for each text. */
    embed(model: string, texts: string | readonly string[], options?: ModelOptions & { truncate?: boolean }): Promise<Float32Array[]>;
    /** Return [label, score] for each text, the best first. */
    classify(
      model: string,
      texts: string | readonly string[],
      options?: ModelOptions & { top?: number; truncate?: boolean },
    ): Promise<[string, number][][]>;
    /** Run a model that takes arrays; returns its outputs. */
    model(
      model: string,
      inputs: { [name: string]: Tensor | { dtype: Dtype; shape: readonly number[]; data: Data } },
      options?: ModelOptions & { outputs?: readonly string[] },
    ): Promise<{ [name: string]: Tensor }>;
    /** Give the call its answer, as `return` does; with tensors. */
    reply(payload: Payload | Answer, options?: { tensors?: readonly Tensor[] }): void;
  }

  export type Handler<State = any> = (ctx: Context<State>) => void | Promise<void>;
  /** What a flow returns is the answer of the call; nothing: what it gave to `ctx.reply`. */
  export type Flow = (ctx: FlowContext) => Promise<Payload | Answer | void>;

  /** An ask failed. `kind`: as in docs/PROTOCOL.md, such as `unknown_agent`, `expired` or `error`. */
  export class AskFailed extends Error {
    readonly kind: string;
    /** Who was asked. */
    readonly target: string;
  }

  /** Give what promises come to, in the order in which they do. Throws at the first that is rejected. */
  export function asCompleted<T>(promises: Iterable<T | PromiseLike<T>>): AsyncGenerator<T, void>;

  /** The arguments and the environment of the deploy (`--arg`, `--env`). */
  export const args: readonly string[];
  export const env: Readonly<Record<string, string>>;

  /** Return a value as MessagePack. */
  export function pack(value: Value): Uint8Array;
  /** Return the value of MessagePack bytes. Throws a RangeError if they are not one value. */
  export function unpack(bytes: Uint8Array): any;
  /** Return the bytes of a file that was deployed with the agent. Throws a ReferenceError if there is none. */
  export function readFile(path: string): Uint8Array;
  /** Return the text of a file that was deployed with the agent. */
  export function readText(path: string): string;
}
