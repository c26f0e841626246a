import type { PushError } from "./errors.js";
import type { ServerFrame } from "./frames.js";
import type { Message } from "./intake.js";
import type { ConnectionState } from "./line.js";

type FrameEvents = {
  [Type in Exclude<ServerFrame["type"], "new_message" | "batch" | "error">]: Extract<
    ServerFrame,
    { type: Type }
  >;
};

/** 事件的名与它的值。消息以外的帧以它的 `type` 为名。 */
export interface PushEvents extends FrameEvents {
  /** 一条消息；处理函数正常返回（或承诺兑现）即已应用。 */
  message: Message;
  /** 一起到的几条，至多 50；抛出则一条也不算。 */
  messages: Message[];
  state: ConnectionState;
  connected: ConnectionState;
  connecting: ConnectionState;
  disconnected: ConnectionState;
  /** 服务器的 `error` 帧，坏帧，应用的处理函数、令牌回调、存储抛出的。 */
  error: PushError | Error;
  /** 消息以外的每一帧，不认识的也在内。 */
  frame: ServerFrame;
}

export type Handler<Name extends keyof PushEvents> = (value: PushEvents[Name]) => unknown;

export class Emitter {
  #handlers = new Map<string, Set<(value: never) => unknown>>();

  /** 返回的函数取消它。 */
  on<Name extends keyof PushEvents>(name: Name, handler: Handler<Name>): () => void {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => void handlers.delete(handler);
  }

  of<Name extends keyof PushEvents>(name: Name): Handler<Name>[] {
    return [...(this.#handlers.get(name) ?? [])] as Handler<Name>[];
  }

  /** 处理函数抛出的只成为 `error` 事件；`error` 的处理函数抛出的报给环境。 */
  emit<Name extends keyof PushEvents>(name: Name, value: PushEvents[Name]): void {
    for (const handler of this.of(name)) {
      void (async () => handler(value))().catch((error: Error) => {
        if (name !== "error") return this.emit("error", error);
        globalThis.reportError ? globalThis.reportError(error) : console.error(error);
      });
    }
  }
}
