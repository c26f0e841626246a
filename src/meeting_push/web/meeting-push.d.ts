/* meeting-push 0.2.0, MIT; made from clients/js */
/** 每一种失败：`code` 是 contract 里的错误码，另有 `network`（没有回答）、`no_websocket`、`no_user_id`。 */
export declare class PushError extends Error {
    readonly code: string;
    /** 原样再来一次有没有可能成功。 */
    readonly temporary: boolean;
    readonly status: number;
    readonly details: unknown;
    readonly retryAfterMs: number | null;
    constructor(code: string, message?: string, { temporary, status, details, retryAfterMs }?: {
        details?: unknown;
        retryAfterMs?: number | null | undefined;
        status?: number | undefined;
        temporary?: boolean | undefined;
    });
}
/** 一个没有成功的 HTTP 回答；正文不是我们的（代理的）也说得清。 */
declare function refusal(response: Response): Promise<PushError>;

export interface Welcome {
    type: "welcome";
    connection_id: string;
    user_id: UserId;
    device_id: string;
    /** seq 的纪元；变了说明服务器丢过数据，旧位置作废。 */
    epoch: string;
    /** 该用户此刻最新的 seq。 */
    seq: number;
    /** 客户端每隔这么久发一次心跳。 */
    heartbeat_interval_s: number;
    /** 这么久没有心跳就以 4003 关闭。 */
    heartbeat_timeout_s: number;
    /** 客户端一帧的上限。 */
    max_frame_bytes: number;
    token_expires_at: Time;
    /** 带来的位置被接受：其后的一切都会按序到来。 */
    resumed: boolean;
    /** 随后要补发的条数：new_message 与等着告知的 withdrawn 都算，广播不算。 */
    pending: number;
    server_time: Time;
}
export type AnyNewMessage = NewMessage | BroadcastMessage | ForeignMessage;
/** 经本系统接受的消息；seq 大于 0，必须确认。 */
export interface NewMessage {
    type: "new_message";
    /** 该用户的序号；重推时不变。 */
    seq: number;
    /** 0 是第一次；n 是第 n 次重推。 */
    attempt: number;
    message_id: MessageId;
    message_type: MessageType;
    priority: Priority;
    title: string;
    content: string;
    sender: Sender;
    timestamp: Time;
    expires_at: Time;
    /** 应用自己的 JSON 对象，原样。 */
    data: Record<string, unknown> | null;
}
/** 发给所有人的，耐久；没有 seq，按 message_id 确认（upto 不管它）。 */
export interface BroadcastMessage {
    type: "new_message";
    /** 广播日志里的号，严格递增。 */
    broadcast_id: number;
    /** 日志里它前面一条的号；没有则 0。 */
    broadcast_prev: number;
    attempt: 0;
    message_id: MessageId;
    message_type: MessageType;
    priority: Priority;
    title: string;
    content: string;
    sender: Sender;
    timestamp: Time;
    expires_at: Time;
    /** 应用自己的 JSON 对象，原样。 */
    data: Record<string, unknown> | null;
}
/** 别的进程直接发布到频道上的；没有 seq（或为 0）的是瞬时消息，推一次就算，不必确认。 */
export interface ForeignMessage {
    type: "new_message";
    message_id: string;
    title: string;
    content: string;
    seq?: number;
    attempt?: number;
    message_type?: MessageType;
    priority?: Priority;
    sender?: Sender | null;
    timestamp?: number | null;
    expires_at?: number | null;
    data?: Record<string, unknown> | null;
}
/** 发的人撤回了这一条：从此不要给人看（没有收到过也会来）。耐久：有自己的 seq，照样确认（按 message_id 或 upto）， 没有确认的重连时再来；从不在 batch 里（0.1 的客户端会连别的一起丢下）。 */
export interface Withdrawn {
    type: "withdrawn";
    /** 新的序号，不是那条消息原来的。 */
    seq: number;
    attempt: number;
    message_id: MessageId;
    withdrawn_at: Time;
    message_type: MessageType;
    priority: Priority;
    title: string;
    content: string;
    sender: Sender;
    timestamp: Time;
    expires_at: Time;
    data: Record<string, unknown> | null;
}
export interface Batch {
    type: "batch";
    /** 优先级高的在前，同级先私信（按 seq），后广播（按 broadcast_id）。 */
    messages: (NewMessage | BroadcastMessage | Withdrawn)[];
}
export interface HeartbeatAck {
    type: "heartbeat_ack";
    /** 心跳里的原样返回。 */
    timestamp: number;
    server_time: Time;
    /** 该用户最新的 seq：客户端由此知道自己缺不缺。 */
    seq: number;
    request_id?: GivenRequestId;
}
export interface AckResult {
    type: "ack_result";
    accepted: number;
    /** 不在信箱里也不曾确认过的（别人的消息也是）；什么也没有改变。 */
    unknown: string[];
    request_id: GivenRequestId;
}
export interface StatusResult {
    type: "status_result";
    status: PresenceStatus;
    request_id: GivenRequestId;
}
export interface TokenRefreshed {
    type: "token_refreshed";
    token_expires_at: Time;
    request_id?: GivenRequestId;
}
export interface TokenExpiring {
    type: "token_expiring";
    token_expires_at: Time;
}
export interface ReadSync {
    type: "read_sync";
    message_ids: string[];
    /** 以它为准，不要自己加减。 */
    unread_count: number;
    request_id?: GivenRequestId;
}
export interface InboxSync {
    type: "inbox_sync";
    message_ids: string[];
    /** 以它为准，不要自己加减。 */
    unread_count: number;
    /** 只增；小于知道的就是旧的。 */
    version: number;
    /** 没有：已读没有变。 */
    read?: boolean;
    /** 没有：归档没有变。 */
    archived?: boolean;
}
export interface Receipt {
    type: "receipt";
    message_id: string;
    recipient_id: UserId;
    status: "delivered" | "failed" | "expired";
    timestamp: Time;
}
export interface Presence {
    type: "presence";
    user_id: UserId;
    online: boolean;
    status: PresenceStatus | null;
}
export interface WatchResult {
    type: "watch_result";
    watching: number;
    request_id: GivenRequestId;
}
export interface OpsWatchResult {
    type: "ops_watch_result";
    /** 回答 ops_unwatch 的是 0。 */
    every_s: number;
    request_id?: GivenRequestId;
}
export interface Ops {
    type: "ops";
    at: number;
    /** 形状同 `GET /api/v1/stats` 的应答。 */
    stats: Record<string, unknown>;
}
/** 这段 seq 不会再来：其中 count 条被信箱上限挤出（evicted）或过期（expired）而没有确认过，其余的 早已确认。在补发之前，按 seq，一条连接上一个 seq 只说一次。 */
export interface Gap {
    type: "gap";
    from_seq: number;
    to_seq: number;
    count: number;
    reason: "evicted" | "expired";
}
export interface Resync {
    type: "resync";
    reason: "epoch_changed" | "too_far_behind";
    /** 此后的位置属于它。 */
    epoch: string;
    seq: number;
}
export interface Notice {
    type: "notice";
    code: string;
    /** 在这个窗口里随机选一刻重连。 */
    reconnect_after_ms: number;
}
export interface ErrorFrame {
    type: "error";
    /** 稳定的，小写下划线；客户端要能容忍不认识的。 */
    code: string;
    /** 给开发者看的英文；从不含原帧。 */
    message: string;
    /** 原样再来一次有没有可能成功。 */
    temporary: boolean;
    request_id?: GivenRequestId;
}
export interface Heartbeat {
    type: "heartbeat";
    request_id?: RequestId;
    timestamp: number;
    /** 若给，必须是 `welcome` 里的那个。 */
    connection_id?: string | null;
}
/** `upto` 只涵盖在这条连接上推过的、seq ≤ upto 的；两者至少有一个。 */
export interface AckFrame {
    type: "ack";
    request_id?: RequestId;
    message_ids?: MessageId[];
    upto?: number | null;
}
export interface StatusFrame {
    type: "status";
    request_id?: RequestId;
    status: PresenceStatus;
    device_info?: string | null;
}
export interface ReadFrame {
    type: "read";
    request_id?: RequestId;
    message_ids: MessageId[];
}
export interface RefreshTokenFrame {
    type: "refresh_token";
    request_id?: RequestId;
    token: string;
}
export interface WatchFrame {
    type: "watch";
    request_id?: RequestId;
    user_ids: UserId[];
}
export interface UnwatchFrame {
    type: "unwatch";
    request_id?: RequestId;
    user_ids: UserId[];
}
export interface OpsWatchFrame {
    type: "ops_watch";
    request_id?: RequestId;
    every_s?: number;
}
export interface OpsUnwatchFrame {
    type: "ops_unwatch";
    request_id?: RequestId;
}
/** 整数，或（人归应用时）一段字；`"5"` 与 5 是一个人。 */
export type UserId = number | string;
/** ULID。 */
export type MessageId = string;
export type MessageType = "message" | "notification" | "system";
export type Priority = number;
export type PresenceStatus = "active" | "away" | "busy";
/** Unix 纪元起的毫秒。 */
export type Time = number;
export interface Sender {
    /** null（从前的 0）是系统。 */
    id: number | string | null;
    name: string;
}
/** 客户端自己选的；对它的回答带着同一个。null 等于没给。 */
export type RequestId = string | number | null;
/** 原样返回；客户端帧没有带就没有这个字段。 */
export type GivenRequestId = string | number;
/** 服务器 → 客户端。 */
export type ServerFrame = Welcome | AnyNewMessage | Batch | TokenExpiring | Withdrawn | ReadSync | InboxSync | Receipt | Presence | Ops | Gap | Resync | Notice | ErrorFrame | HeartbeatAck | AckResult | StatusResult | TokenRefreshed | WatchResult | OpsWatchResult;
/** 客户端 → 服务器。 */
export type ClientFrame = Heartbeat | AckFrame | StatusFrame | ReadFrame | RefreshTokenFrame | WatchFrame | UnwatchFrame | OpsWatchFrame | OpsUnwatchFrame;

/** 一台设备的账：应用过什么，能声称到哪个位置，还欠哪些确认。纯计算。 */
interface Position {
    epoch: string;
    last_seq: number;
}
/** 有界的集合；最久没碰到的先忘掉。 */
declare class Recent {
    #private;
    private capacity;
    constructor(capacity: number, ids?: Iterable<string>);
    has(id: string): boolean;
    add(id: string): void;
    newest(count: number): string[];
}
/**
 * 服务器先推完连接时的积压（flush，seq ≤ `welcome.seq`），再推之后的。积压按优先级在前，seq 不按次序来；
 * 推完时仍没出现的不会再来（别的设备确认过，或过期了），算已了结。
 */
declare class Ledger {
    #private;
    epoch: string | null;
    /** 重连时声称的：在 `epoch` 里 seq ≤ `last_seq` 的都已应用，或不会再来。 */
    get claim(): Position | null;
    /** 从别处接着：存着的，或别的标签页的。 */
    adopt({ epoch, last_seq }: Position): void;
    /** 收到 `welcome`；`held` 是还在手里的。没有续传时旧位置作废。 */
    opened({ epoch, seq, resumed, pending }: Welcome, held: Iterable<number>): void;
    /** 一条带 seq 的到了；重复的也算。 */
    received(seq: number): void;
    /** 应用处理完一条；`epoch` 是收到它时的，换了代的 seq 不再有意义。 */
    applied(seq: number, epoch: string | null): void;
    /** 服务器宣告这一段不会再来；已到手的除外。 */
    gap({ from_seq, to_seq }: Gap): void;
    /** 位置作废。紧跟 `welcome` 的那一个等积压推完才算数，否则会把没应用的说成已应用。 */
    resynced({ epoch, seq }: Resync): void;
    /** 到 `seq` 为止有没到手、也没说不来的。积压还在推时不知道，就说没有。 */
    lacks(seq: number): boolean;
}
/** 确认要等服务器认下才算数：断线时在途的，下一条连接上重送（续传不会再推它们）。 */
declare class Acks {
    #private;
    constructor(ids?: Iterable<string>);
    get waiting(): boolean;
    add(id: string): void;
    /** 取出一批去送；没有则 null。 */
    take(): {
        request: number;
        ids: string[];
    } | null;
    /** 服务器认下了，或说永远不认；不是我们的号无害。 */
    confirmed(request: unknown): void;
    /** 这一批没有办成，再送；不是我们的号则 false。 */
    again(request: unknown): boolean;
    /** 新连接：没得到回答的排回最前面；一帧不超过服务器的上限。 */
    reopen(maxFrameBytes: number): void;
    unconfirmed(): string[];
}

/** 时刻与定时。测试给一个自己的；页面看不见时由 Worker 计时：那里的定时器不受节流。 */
export interface Clock {
    /** 墙上的毫秒：机器睡着时也走。 */
    now(): number;
    set(act: () => void, ms: number): number;
    clear(timer: number): void;
    /** 全部取消；之后还可以再用。 */
    stop(): void;
}
/** Worker 里的全部：`[号, 毫秒]` 进，到时把号送回来。也在 `meeting-push.worker.js`。 */
declare const WORKER_SOURCE = "onmessage=e=>{setTimeout(()=>postMessage(e.data[0]),e.data[1])}";
/** `worker`：true 用 blob: 造一个，一段字是它的地址（CSP 不许 blob: 时），false 不用。 */
declare function systemClock(worker: boolean | string): Clock;

/** 位置存在哪里。一份只给一个客户端（`shared` 时一个用户的各个标签页算一个）。 */
/** 自备的：文件、IndexedDB、别的库都可以；抛出的只发 `error` 事件，收发不停。 */
export interface PositionStore {
    load(key: string): string | null | Promise<string | null>;
    save(key: string, value: string): void | Promise<void>;
}
/** 关了就忘：下次从信箱里没确认的开始。 */
export declare function memoryStore(): PositionStore;
/** `localStorage`、`sessionStorage`。 */
export declare function webStore(storage: Storage): PositionStore;
type StoreOption = "memory" | "local" | "session" | PositionStore;
/** 浏览器不让用存储（隐私模式、沙箱里的框）时用内存。 */
declare function storeOf(option: StoreOption): PositionStore;
/** 存着的样子；不含令牌，也不含消息的内容。 */
interface DeviceState {
    device_id: string;
    epoch: string | null;
    floor: number;
    ids: string[];
    unconfirmed: string[];
}
/** 读不懂的当作没有：代价只是服务器把信箱重推一遍。 */
declare function readState(text: string | null): DeviceState | null;

/** `fresh`：手里的刚过期（4004、`token_expired`），必须换新的。 */
export interface TokenRequest {
    fresh: boolean;
}
/**
 * 固定的令牌，或每次要用时都问的函数。它抛出的错误带 `temporary: false` 就不再重连（该登录了），
 * 别的退避后再问。
 */
export type TokenSource = string | ((request: TokenRequest) => string | Promise<string>);
/** 令牌里写的，不验证签名；不是 JWT 则空。 */
declare function claimsOf(token: string): Record<string, unknown>;
declare class Tokens {
    #private;
    private source;
    constructor(source: TokenSource);
    /** 固定的令牌到期了，不会有新的。 */
    get usedUp(): boolean;
    get renewable(): boolean;
    /** 同时来要新的，只问一次。 */
    get(fresh?: boolean): Promise<string>;
}
/** 十进制的是整数，别的是一段字：`"5"` 与 5 是一个人。 */
declare function personId(value: unknown): UserId;

/** 浏览器的、Node 22 起自带的，或 `ws` 包的类。 */
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;
export interface WebSocketLike {
    readonly readyState: number;
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    send(text: string): void;
    close(code?: number): void;
}
export interface PushClientOptions {
    /** 服务器的根，http、https 均可，可以带前缀。 */
    url: string | URL;
    token: TokenSource;
    /** 不给则读令牌的 `userIdClaim`，不验证签名。 */
    userId?: UserId;
    userIdClaim?: string;
    /** 这台设备稳定的 id；不给则用存着的，再没有就造一个。 */
    deviceId?: string;
    /** 给人看的设备名。 */
    deviceInfo?: string;
    /** 位置存在哪里：`memory`（缺省）、`local`、`session`，或自备。 */
    store?: StoreOption;
    /** `handled`（缺省）：处理函数正常返回就确认；`manual`：只有 `message.ack()`、`client.ack()`。 */
    ack?: "handled" | "manual";
    /** `auto`（缺省）：WebSocket 连着两次不成就用 SSE，五分钟后再试 WebSocket。 */
    transport?: "auto" | "websocket" | "sse";
    /** 一个浏览器里的各个标签页共用一条连接；缺 Web Locks 或 BroadcastChannel 时各连各的。 */
    shared?: boolean;
    /** 看不见的页面由 Worker 计时；CSP 不许 blob: 时给 `meeting-push.worker.js` 的地址，或 false。 */
    worker?: boolean | string;
    WebSocket?: WebSocketClass;
    fetch?: typeof fetch;
    /** 全抖动的退避：random(0, min(cap, base · 2ⁿ))。 */
    backoffBaseMs?: number;
    backoffCapMs?: number;
    /** 活过这么久，退避从头算。 */
    stableAfterMs?: number;
    openTimeoutMs?: number;
    /** 心跳发出后这么久没有任何帧，就当服务器已死。 */
    deadAfterMs?: number;
    /** 醒来、网络换了之后的试探等这么久。 */
    probeAfterMs?: number;
    /** SSE 这么久没有一个字节（服务器每 15 秒一行注释）。 */
    silentAfterMs?: number;
    websocketRetryMs?: number;
    ackDelayMs?: number;
    requestTimeoutMs?: number;
    /** 记住最近多少个消息 id 用来去重。 */
    rememberIds?: number;
    /** 排着队等处理的至多这么多；再来的不收，服务器会重推。 */
    queueLimit?: number;
    clock?: Clock;
    random?: () => number;
}
type Settings = Required<Omit<PushClientOptions, "userId" | "deviceId" | "WebSocket">> & Pick<PushClientOptions, "userId" | "deviceId"> & {
    url: URL;
    WebSocket: WebSocketClass | undefined;
};
/** 没给的（包括 undefined）用缺省的。 */
declare function settle(options: PushClientOptions, clock: (worker: boolean | string) => Clock): Settings;

/** 收：连接与应用之间的一站。去重、排队、记账、确认、存位置都在这里，没有网络。 */
/** 交到应用手里的：`new_message` 的字段；瞬时的那种没给的，是这里写的缺省。 */
export interface Message {
    /** 没有的是广播或瞬时消息。 */
    readonly seq: number | null;
    readonly broadcast_id: number | null;
    /** 大于 0 是重推。 */
    readonly attempt: number;
    readonly message_id: string;
    readonly message_type: MessageType;
    readonly priority: Priority;
    readonly title: string;
    readonly content: string;
    readonly sender: Sender | null;
    readonly timestamp: Time | null;
    readonly expires_at: Time | null;
    readonly data: Record<string, unknown> | null;
    /** 现在就算已应用，不等处理函数返回；重复调用无害。 */
    ack(): void;
}
/** 断了也不会忘的事怎样说出去。 */
interface Outlet {
    /** 这一批送出去了（回答由 `ack_result`、`settled` 来）；此刻送不了则 false。 */
    sendAcks(request: number, ids: string[]): boolean;
    /** 不握着连接的标签页：交给握着的那个。 */
    forward: ((ids: string[]) => void) | null;
}
declare class Intake {
    #private;
    private settings;
    private events;
    private outlet;
    private missed;
    deviceId: string;
    constructor(settings: Settings, events: Emitter, outlet: Outlet, missed: () => void);
    get claim(): Position | null;
    /** 读存着的；指定了别的 `deviceId` 就是另一台设备，旧账不算。 */
    load(key: string): Promise<void>;
    adopt(position: Position): void;
    frame(frame: ServerFrame): void;
    confirmed(request: unknown): void;
    /** 这一批没有办成：`temporary` 就过会儿再送。 */
    refused(request: unknown, temporary: boolean): void;
    /** 逐条交给应用；没有处理函数就等着。 */
    pump(): void;
    /** 没轮到的都丢掉，没确认的会再来；正在处理的继续。 */
    halt(): void;
    /** 应用说这些处理完了；只给 id 也行。 */
    ack(...ids: string[]): void;
    /** 别的标签页处理完的：代它确认；自己的应用还没有。 */
    ackFor(ids: string[]): void;
    /** 先存后送：反过来的话，死在中间的页面会把应用过的再交给应用一次。 */
    flush(): Promise<void>;
}
declare function randomId(): string;

/** 一条连接的两种样子：WebSocket，与由 `fetch` 读的 SSE。都只管字节与帧。 */
type TransportKind = "websocket" | "sse";
/** 怎样结束的；`code` 是 WebSocket 的关闭码，SSE 的按它的意思。 */
interface End {
    code: number | null;
    reason: string;
    retryAfterMs?: number | null;
}
interface Listener {
    /** 有字节来了，不论是什么。 */
    heard(): void;
    frame(frame: ServerFrame): void;
    /** 不是帧的：忽略，只说一声。 */
    garbage(): void;
    closed(end: End): void;
}
interface Transport {
    readonly kind: TransportKind;
    /** 没送出去则 false。 */
    send(frame: ClientFrame): boolean;
    close(): void;
}
/** 令牌在子协议里，从不进 URL。 */
declare function openWebSocket(Socket: WebSocketClass, address: URL, token: string, listener: Listener): Transport;
declare function openStream(get: typeof fetch, address: URL, token: string, listener: Listener): Transport;
/** `text/event-stream` 的一段段文字 → 事件；`id`、`retry` 用不着。 */
declare class EventReader {
    #private;
    push(text: string): {
        event: string;
        data: string;
    }[];
}

/** 一直连着：连上、断了再连、换一种走法，直到停下或服务器不许再连。 */
/** `final`：不会再连；否则 `retryAt` 是下一次（毫秒）。`code` 是关闭码，`reason` 是它的名或我们的缘由。 */
export interface ConnectionState {
    name: "disconnected" | "connecting" | "connected";
    transport: TransportKind | null;
    code: number | null;
    reason: string;
    retryAt: number | null;
    final: boolean;
}
declare const IDLE: ConnectionState;
/** 连接要问的与要说的。 */
interface LineHost {
    claim(): Position | null;
    deviceId(): string;
    userId(token: string): UserId;
    state(state: ConnectionState): void;
    frame(frame: ServerFrame): void;
    failed(error: unknown): void;
}
declare class Line {
    #private;
    private settings;
    private tokens;
    private host;
    state: ConnectionState;
    constructor(settings: Settings, tokens: Tokens, host: LineHost);
    start(): void;
    stop(reason?: string, code?: number | null): void;
    /** 等着就现在连；别的时候无事。 */
    retryNow(): void;
    send(frame: ClientFrame): boolean;
    get kind(): TransportKind | null;
    /** 网络也许换过、机器也许睡过：马上问一句，等得短。 */
    probe(): void;
    /** 网络回来了。 */
    online(): void;
    /** 丢下这一条，带着位置再连。 */
    reconnect(reason: string): void;
}

type FrameEvents = {
    [Type in Exclude<ServerFrame["type"], "new_message" | "batch" | "error">]: Extract<ServerFrame, {
        type: Type;
    }>;
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
declare class Emitter {
    #private;
    /** 返回的函数取消它。 */
    on<Name extends keyof PushEvents>(name: Name, handler: Handler<Name>): () => void;
    of<Name extends keyof PushEvents>(name: Name): Handler<Name>[];
    /** 处理函数抛出的只成为 `error` 事件；`error` 的处理函数抛出的报给环境。 */
    emit<Name extends keyof PushEvents>(name: Name, value: PushEvents[Name]): void;
}

/** 经 REST 的事，用同一个令牌。返回 contract 里的应答，拒绝则抛 `PushError`。 */
export interface SendOptions {
    message_type?: MessageType;
    priority?: Priority;
    expires_in_s?: number;
    deliver_at?: Time;
    data?: Record<string, unknown>;
    receipt?: boolean;
    /** 缺省是随机的：没有回答、429、503 时带着同一个再来，不会发成两条。 */
    idempotencyKey?: string;
}
export interface Accepted {
    message_id: string;
    recipient_count: number;
    created_at: Time;
}
/** 收件箱的一条。 */
export interface InboxItem {
    message_id: string;
    message_type: MessageType;
    priority: Priority;
    title: string;
    content: string;
    sender: Sender;
    timestamp: Time;
    expires_at: Time | null;
    data: Record<string, unknown> | null;
    read_at: Time | null;
    archived_at?: Time | null;
    /** 发给所有人的。 */
    broadcast?: boolean;
    /** 撤回了：标题、正文是空的。 */
    withdrawn_at?: Time | null;
    [field: string]: unknown;
}
export interface InboxPage {
    items: InboxItem[];
    next_cursor: string | null;
    unread_count: number;
}
/** 都要满足；没有 `archived` 就是没有归档的，`q` 在最新的 10,000 条的标题与正文里找。 */
export type InboxQuery = {
    unread?: boolean;
    archived?: boolean;
    message_type?: MessageType | null;
    min_priority?: Priority | null;
    q?: string | null;
    cursor?: string | null;
    limit?: number;
};
export type PageQuery = Pick<InboxQuery, "cursor" | "limit">;
/** 自己发的一条；`recipient_count` 是 0：发给所有人的。 */
export interface SentItem extends InboxItem {
    recipient_count: number;
    deliver_at: Time | null;
    /** 头几个收件人；名字是名册说看得见的。从前的服务器不说。 */
    recipients?: {
        user_id: UserId;
        name: string | null;
    }[];
}
/** 一页可以是短的、空的：`next_cursor` 是 null 才到底。 */
export interface SentPage {
    items: SentItem[];
    next_cursor: string | null;
}
/** `version` 只增：小的是旧的。 */
export interface Counts {
    unread: number;
    urgent: number;
    archived: number;
    version: number;
}
/** `unknown`：不是自己的、不存在的。 */
export interface StateChange {
    unread_count: number;
    version: number;
    unknown: string[];
}
/** 广播的 `total`、`pending` 是 null：总人数不得而知。 */
export interface DeliveryState {
    message_id: string;
    total: number | null;
    pending: number | null;
    delivered: number;
    failed: number;
    expired: number;
    withdrawn: number;
    recipients: {
        user_id: UserId;
        status: string;
        attempts: number;
        sent_at: Time | null;
        delivered_at: Time | null;
        failed_at: Time | null;
        failure_reason: string | null;
        /** 名册说看得见的；没有名册的服务器不说。 */
        name?: string | null;
    }[];
    next_cursor: string | null;
}
export type UserPresence = Pick<Presence, "user_id" | "online"> & {
    connection_count?: number;
    connections?: Record<string, unknown>[];
};
export interface CallOptions {
    body?: unknown;
    query?: Record<string, string | number | boolean | null | undefined>;
    headers?: Record<string, string>;
    /** 暂时办不成的再来几次；只给再来无害的。 */
    retries?: number;
}
declare class Rest {
    #private;
    private settings;
    private tokens;
    constructor(settings: Settings, tokens: Tokens);
    /** `path` 在 `/api/v1/` 之下。令牌刚过期的换一次再试。 */
    call<T = unknown>(method: string, path: string, options?: CallOptions): Promise<T>;
    /** 发给这些人；202 就已提交，不会丢。 */
    send(recipients: UserId[], title: string, content: string, { idempotencyKey, ...more }?: SendOptions): Promise<Accepted>;
    /** 收件箱，新的在前。 */
    inbox(query?: InboxQuery): Promise<InboxPage>;
    /** 自己发的，新的在前。 */
    sent(query?: PageQuery): Promise<SentPage>;
    counts(): Promise<Counts>;
    /** 已读、归档改成这样，没有说的不变；别的设备得到 `inbox_sync`。至多 1,000 条。 */
    setState(messageIds: string[], state: {
        read?: boolean;
        archived?: boolean;
    }): Promise<StateChange>;
    /** 归档；`false` 是放回去。 */
    archive(messageIds: string[], archived?: boolean): Promise<StateChange>;
    /** 撤回自己发的：到处只剩墓碑。 */
    withdraw(messageId: string): Promise<null>;
    message(messageId: string): Promise<InboxItem>;
    /** 标为已读：这些，或到这一条为止；别的设备得到 `read_sync`。 */
    markRead(what: string[] | {
        upto: string;
    }): Promise<{
        unread_count: number;
    }>;
    delivery(messageId: string, query?: PageQuery): Promise<DeliveryState>;
    presence(userId: UserId): Promise<UserPresence>;
}

/**
 * 一台设备与服务器之间的连接：断线自动重连、续传、去重、确认；服务器的至少一次到应用这里是恰好一次。
 *
 *     const client = new PushClient({ url, token: ({ fresh }) => myToken(fresh) });
 *     client.on("message", async (message) => show(message));
 *     client.start();
 */
export declare class PushClient {
    #private;
    /** 经 REST 的事，用同一个令牌。 */
    readonly rest: Rest;
    /**
     * 不联网。
     *
     * @throws PushError `no_websocket`：要 WebSocket 而这里没有；`no_user_id`：`shared` 与存着的位置要先知道是谁
     */
    constructor(options: PushClientOptions);
    get state(): ConnectionState;
    get deviceId(): string;
    /** 握着连接的是不是这个标签页；不共用时总是。 */
    get leading(): boolean;
    /** 返回的函数取消它。`message` 的处理函数逐个等，可以是异步的。 */
    on<Name extends keyof PushEvents>(name: Name, handler: Handler<Name>): () => void;
    /** 开始连，不等连上；停下的（也包括服务器不许再连的）可以再开始。 */
    start(): void;
    /** 送出已有的确认，关闭；手上的处理函数照常跑完。 */
    stop(): Promise<void>;
    /** 等着重连就现在连。 */
    retryNow(): void;
    /** 等到连着。@throws PushError 不会再连了，`code` 是缘由 */
    connected(): Promise<void>;
    /** 这些算处理完了；只给 id 也可以。确认成批送出，断线也不会忘。 */
    ack(...messages: (Message | string)[]): void;
    /** 送一帧；此刻送不了（没连着，或走的是 SSE）则 false，不留到以后。 */
    say(frame: ClientFrame): boolean;
    /** active、away 或 busy；每次重连都重说。走 SSE 时说不了，等换回 WebSocket。 */
    status(status: PresenceStatus, deviceInfo?: string): void;
    /** 关注这些人的在线状态（`presence` 事件）；每次重连都重说。走 SSE 时用 `rest.presence`。 */
    watch(userIds: Iterable<UserId>): void;
    /** 共用的连接上别的标签页也许还在看：等下一条连接才真的停。 */
    unwatch(userIds: Iterable<UserId>): void;
}

export type { Rest };
