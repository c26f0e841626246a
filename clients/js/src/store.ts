/** 位置存在哪里。一份只给一个客户端（`shared` 时一个用户的各个标签页算一个）。 */

/** 自备的：文件、IndexedDB、别的库都可以；抛出的只发 `error` 事件，收发不停。 */
export interface PositionStore {
  load(key: string): string | null | Promise<string | null>;
  save(key: string, value: string): void | Promise<void>;
}

/** 关了就忘：下次从信箱里没确认的开始。 */
export function memoryStore(): PositionStore {
  const kept = new Map<string, string>();
  return { load: (key) => kept.get(key) ?? null, save: (key, value) => void kept.set(key, value) };
}

/** `localStorage`、`sessionStorage`。 */
export function webStore(storage: Storage): PositionStore {
  return {
    load: (key) => storage.getItem(key),
    save: (key, value) => storage.setItem(key, value),
  };
}

export type StoreOption = "memory" | "local" | "session" | PositionStore;

/** 浏览器不让用存储（隐私模式、沙箱里的框）时用内存。 */
export function storeOf(option: StoreOption): PositionStore {
  if (typeof option === "object") return option;
  try {
    if (option === "local") return webStore(localStorage);
    if (option === "session") return webStore(sessionStorage);
  } catch {
    // 读一下 localStorage 就会抛
  }
  return memoryStore();
}

/** 存着的样子；不含令牌，也不含消息的内容。 */
export interface DeviceState {
  device_id: string;
  epoch: string | null;
  floor: number;
  ids: string[];
  unconfirmed: string[];
}

/** 读不懂的当作没有：代价只是服务器把信箱重推一遍。 */
export function readState(text: string | null): DeviceState | null {
  try {
    const state = JSON.parse(text ?? "null") as DeviceState | null;
    const lists = [state?.ids, state?.unconfirmed];
    const sound = typeof state?.device_id === "string" && Number.isSafeInteger(state.floor);
    return sound && lists.every(Array.isArray) ? state : null;
  } catch {
    return null;
  }
}
