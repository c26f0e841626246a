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
export const WORKER_SOURCE = "onmessage=e=>{setTimeout(()=>postMessage(e.data[0]),e.data[1])}";

interface Pending {
  act: () => void;
  due: number;
  handle: ReturnType<typeof setTimeout> | undefined;
}

/** `worker`：true 用 blob: 造一个，一段字是它的地址（CSP 不许 blob: 时），false 不用。 */
export function systemClock(worker: boolean | string): Clock {
  const pending = new Map<number, Pending>();
  let next = 1;
  let ticker: Worker | null = null;

  const fire = (timer: number) => {
    const found = pending.get(timer);
    if (!found) return;
    clearTimeout(found.handle);
    pending.delete(timer);
    found.act();
  };
  const arm = (timer: number, one: Pending) => {
    clearTimeout(one.handle);
    const ms = Math.max(0, one.due - Date.now());
    if (ticker) ticker.postMessage([timer, ms]);
    else one.handle = setTimeout(fire, Math.min(ms, 2 ** 31 - 1), timer);
  };
  const rearm = () => pending.forEach((one, timer) => arm(timer, one));
  const change = (to: Worker | null) => {
    ticker?.terminate();
    ticker = to;
    rearm();
  };
  const watch = () => {
    if (document.visibilityState === "hidden") change(startWorker(worker, fire, () => change(null)));
    else if (ticker) change(null);
  };
  const able = worker !== false && typeof document === "object" && typeof Worker === "function";
  let watching = false;

  return {
    now: () => Date.now(),
    set(act, ms) {
      if (able && !watching) {
        watching = true;
        document.addEventListener("visibilitychange", watch);
        watch();
      }
      const timer = next++;
      const one: Pending = { act, due: Date.now() + ms, handle: undefined };
      pending.set(timer, one);
      arm(timer, one);
      return timer;
    },
    clear(timer) {
      clearTimeout(pending.get(timer)?.handle);
      pending.delete(timer);
    },
    stop() {
      pending.forEach((one) => clearTimeout(one.handle));
      pending.clear();
      if (watching) document.removeEventListener("visibilitychange", watch);
      watching = false;
      change(null);
    },
  };
}

/** CSP 不许就没有：回到页面自己的定时器。 */
function startWorker(
  option: boolean | string,
  fire: (timer: number) => void,
  failed: () => void,
): Worker | null {
  const made = option === true;
  const url = made ? URL.createObjectURL(new Blob([WORKER_SOURCE])) : (option as string);
  try {
    const worker = new Worker(url);
    worker.onmessage = (event) => fire(event.data as number);
    worker.onerror = failed;
    return worker;
  } catch {
    return null;
  } finally {
    if (made) setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}
