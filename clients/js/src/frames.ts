// 由 tools/typescript_frames.py 从 docs/asyncapi.yaml 生成，不要手改。

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
export type ServerFrame =
  | Welcome
  | AnyNewMessage
  | Batch
  | TokenExpiring
  | Withdrawn
  | ReadSync
  | InboxSync
  | Receipt
  | Presence
  | Ops
  | Gap
  | Resync
  | Notice
  | ErrorFrame
  | HeartbeatAck
  | AckResult
  | StatusResult
  | TokenRefreshed
  | WatchResult
  | OpsWatchResult;

/** 客户端 → 服务器。 */
export type ClientFrame =
  | Heartbeat
  | AckFrame
  | StatusFrame
  | ReadFrame
  | RefreshTokenFrame
  | WatchFrame
  | UnwatchFrame
  | OpsWatchFrame
  | OpsUnwatchFrame;
