import { systemClock } from "./clock.js";
import { Emitter, type Handler, type PushEvents } from "./emitter.js";
import { PushError } from "./errors.js";
import type { ClientFrame, PresenceStatus, ServerFrame, StatusFrame, UserId } from "./frames.js";
import { Intake, type Message } from "./intake.js";
import { type ConnectionState, IDLE, Line } from "./line.js";
import { type PushClientOptions, settle, type Settings } from "./options.js";
import { Rest } from "./rest.js";
import { canShare, Tabs } from "./tabs.js";
import { claimsOf, personId, Tokens } from "./tokens.js";

const MAX_WATCH_IDS = 100;

/**
 * 一台设备与服务器之间的连接：断线自动重连、续传、去重、确认；服务器的至少一次到应用这里是恰好一次。
 *
 *     const client = new PushClient({ url, token: ({ fresh }) => myToken(fresh) });
 *     client.on("message", async (message) => show(message));
 *     client.start();
 */
export class PushClient {
  /** 经 REST 的事，用同一个令牌。 */
  readonly rest: Rest;
  #settings: Settings;
  #tokens: Tokens;
  #events = new Emitter();
  #intake: Intake;
  #line: Line;
  #tabs: Tabs | null = null;
  #state: ConnectionState = IDLE;
  #userId: UserId | undefined;
  /** 每次 `start` 一个号；0 是停着。 */
  #running = 0;
  #starts = 0;
  #status: StatusFrame | null = null;
  #watched = new Set<UserId>();

  /**
   * 不联网。
   *
   * @throws PushError `no_websocket`：要 WebSocket 而这里没有；`no_user_id`：`shared` 与存着的位置要先知道是谁
   */
  constructor(options: PushClientOptions) {
    this.#settings = settle(options, systemClock);
    this.#tokens = new Tokens(options.token);
    this.rest = new Rest(this.#settings, this.#tokens);
    const { transport, WebSocket: Socket, shared, store, userId } = this.#settings;
    if (transport === "websocket" && !Socket) {
      throw new PushError("no_websocket", "this runtime has no WebSocket: pass { WebSocket } from 'ws'");
    }
    if (userId !== undefined) this.#userId = personId(userId);
    else if (typeof options.token === "string") this.#userId = this.#named(options.token);
    else if (shared || store !== "memory") throw new PushError("no_user_id", "give userId");
    const outlet = { sendAcks: (request: number, ids: string[]) => this.#sendAcks(request, ids), forward: null };
    this.#intake = new Intake(this.#settings, this.#events, outlet, () => this.#line.reconnect("missed"));
    this.#outlet = outlet;
    this.#line = new Line(this.#settings, this.#tokens, {
      claim: () => this.#intake.claim,
      deviceId: () => this.#intake.deviceId,
      userId: (token) => this.#userId ?? this.#named(token),
      state: (state) => this.#become(state),
      frame: (frame) => this.#relay(frame),
      failed: (error) => this.#events.emit("error", error as Error),
    });
  }

  #outlet: { forward: ((ids: string[]) => void) | null };

  get state(): ConnectionState {
    return this.#state;
  }

  get deviceId(): string {
    return this.#intake.deviceId;
  }

  /** 握着连接的是不是这个标签页；不共用时总是。 */
  get leading(): boolean {
    return this.#tabs?.leading ?? true;
  }

  /** 返回的函数取消它。`message` 的处理函数逐个等，可以是异步的。 */
  on<Name extends keyof PushEvents>(name: Name, handler: Handler<Name>): () => void {
    const off = this.#events.on(name, handler);
    this.#intake.pump();
    return off;
  }

  // ── 生命 ────────────────────────────────────────────────────────────────

  /** 开始连，不等连上；停下的（也包括服务器不许再连的）可以再开始。 */
  start(): void {
    if (!this.#running) {
      this.#running = ++this.#starts;
      this.#listen("addEventListener");
      void this.#begin(this.#running);
    } else if (this.leading) this.#line.start();
    else this.#tabs!.retry();
  }

  /** 送出已有的确认，关闭；手上的处理函数照常跑完。 */
  async stop(): Promise<void> {
    if (!this.#running) return;
    this.#running = 0;
    this.#listen("removeEventListener");
    this.#intake.halt();
    await this.#intake.flush();
    if (this.#running) return;
    this.#detach();
    this.#settings.clock.stop();
  }

  /** 等着重连就现在连。 */
  retryNow(): void {
    this.#line.retryNow();
    if (!this.leading) this.#tabs!.retry();
  }

  /** 等到连着。@throws PushError 不会再连了，`code` 是缘由 */
  connected(): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = (state: ConnectionState) => {
        if (state.name === "connected") resolve();
        else if (state.final && this.#running === 0) reject(new PushError("not_started"));
        else if (state.final && state !== IDLE) reject(new PushError(state.reason));
        else return;
        off();
      };
      const off = this.on("state", look);
      look(this.#state);
    });
  }

  async #begin(run: number): Promise<void> {
    await this.#intake.load(this.#name());
    if (run === this.#running) this.#attach();
  }

  /** 存位置、认标签页的名：哪个服务器上的谁。 */
  #name(): string {
    return `meeting-push:${this.#settings.url.href}:${this.#userId ?? ""}`;
  }

  #attach(): void {
    if (this.#settings.shared && canShare()) this.#tabs = this.#join(this.#name());
    else this.#line.start();
  }

  #detach(reason?: string): void {
    this.#tabs?.stop();
    this.#tabs = null;
    this.#outlet.forward = null;
    this.#line.stop(reason);
  }

  #join(name: string): Tabs {
    this.#outlet.forward = (ids) => this.#tabs?.ack(ids);
    return new Tabs(name, this.#settings.clock, {
      lead: () => {
        this.#outlet.forward = null;
        this.#line.start();
      },
      follow: () => {
        this.#outlet.forward = (ids) => this.#tabs?.ack(ids);
        this.#line.stop("followed");
      },
      state: () => ({ state: this.#line.state, position: this.#intake.claim }),
      heardState: (state, position) => {
        if (this.#intake.claim === null && position) this.#intake.adopt(position);
        this.#become(state);
      },
      heardFrame: (frame) => this.#frame(frame),
      heardSay: (frame) => void this.#line.send(frame),
      heardAck: (ids) => this.#intake.ackFor(ids),
      heardRetry: () => (this.#line.state.final ? this.#line.start() : this.#line.retryNow()),
    });
  }

  #listen(act: "addEventListener" | "removeEventListener"): void {
    if (typeof window !== "object" || typeof document !== "object") return;
    window[act]("online", this.#onOnline);
    window[act]("offline", this.#onWake);
    window[act]("pagehide", this.#onLeave);
    window[act]("pageshow", this.#onReturn);
    document[act]("resume", this.#onWake);
    document[act]("visibilitychange", this.#onVisible);
  }

  #onOnline = () => this.#line.online();
  #onWake = () => this.#line.probe();
  /** 翻走了：也许留在浏览器的缓存里，不能带着锁与连接睡在那里。 */
  #onLeave = () => {
    void this.#intake.flush();
    this.#detach("page_hidden");
  };
  #onReturn = (event: Event) => void ((event as PageTransitionEvent).persisted && this.#attach());
  #onVisible = () => {
    if (document.visibilityState === "hidden") return void this.#intake.flush();
    this.#tabs?.check();
    this.#line.probe();
    this.#line.retryNow();
  };

  #become(state: ConnectionState): void {
    // 让位的标签页：说的是握着连接的那个
    if (this.#tabs && !this.leading && state.reason === "followed") return;
    this.#state = state;
    if (this.leading) this.#tabs?.tellState();
    this.#events.emit("state", state);
    this.#events.emit(state.name, state);
  }

  // ── 帧 ──────────────────────────────────────────────────────────────────

  #relay(frame: ServerFrame): void {
    this.#tabs?.tellFrame(frame);
    this.#frame(frame);
  }

  #frame(frame: ServerFrame): void {
    if (!this.#running) return;
    this.#intake.frame(frame);
    if (frame.type === "welcome") this.#greet();
  }

  #sendAcks(request: number, ids: string[]): boolean {
    if (this.#line.kind !== "sse") {
      return this.#line.send({ type: "ack", message_ids: ids, request_id: request });
    }
    this.rest.call("POST", "acks", { body: { message_ids: ids } }).then(
      () => this.#intake.confirmed(request),
      ({ temporary, status }: PushError) => this.#intake.refused(request, temporary || status < 422),
    );
    return true;
  }

  /** 这些算处理完了；只给 id 也可以。确认成批送出，断线也不会忘。 */
  ack(...messages: (Message | string)[]): void {
    this.#intake.ack(...messages.map((one) => (typeof one === "string" ? one : one.message_id)));
  }

  /** 送一帧；此刻送不了（没连着，或走的是 SSE）则 false，不留到以后。 */
  say(frame: ClientFrame): boolean {
    if (this.leading) return this.#line.send(frame);
    const able = this.#state.transport === "websocket";
    if (able) this.#tabs!.say(frame);
    return able;
  }

  // ── 每条新连接都要重说的 ────────────────────────────────────────────────

  /** active、away 或 busy；每次重连都重说。走 SSE 时说不了，等换回 WebSocket。 */
  status(status: PresenceStatus, deviceInfo?: string): void {
    this.#status = { type: "status", status, device_info: deviceInfo ?? null };
    this.say(this.#status);
  }

  /** 关注这些人的在线状态（`presence` 事件）；每次重连都重说。走 SSE 时用 `rest.presence`。 */
  watch(userIds: Iterable<UserId>): void {
    const added = [...userIds].filter((id) => !this.#watched.has(id));
    for (const id of added) this.#watched.add(id);
    this.#watchFrames("watch", added);
  }

  /** 共用的连接上别的标签页也许还在看：等下一条连接才真的停。 */
  unwatch(userIds: Iterable<UserId>): void {
    const removed = [...userIds].filter((id) => this.#watched.delete(id));
    if (!this.#tabs) this.#watchFrames("unwatch", removed);
  }

  #greet(): void {
    if (this.#status) this.say(this.#status);
    this.#watchFrames("watch", [...this.#watched]);
  }

  #watchFrames(type: "watch" | "unwatch", ids: UserId[]): void {
    for (let at = 0; at < ids.length; at += MAX_WATCH_IDS) {
      this.say({ type, user_ids: ids.slice(at, at + MAX_WATCH_IDS) });
    }
  }

  #named(token: string): UserId {
    return personId(claimsOf(token)[this.#settings.userIdClaim]);
  }
}
