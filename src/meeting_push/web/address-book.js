/**
 * 这个标签页里见过的人：id 与名字。写给谁可以写名字，送达情况里显示名字。
 *
 * 名字是服务器随消息说的；没见过的只有 id。
 */

import { readId } from "./rest.js";
import { say } from "./words.js";

const names = new Map();
const ids = new Map();

export function meet(sender) {
  const { id, name } = sender ?? {};
  if (!id || !name || names.get(id) === name) return;
  names.set(id, name);
  const key = name.toLowerCase();
  ids.set(key, ids.has(key) && ids.get(key) !== id ? null : id); // 同名的说不清是谁
}

export function forgetEverybody() {
  names.clear();
  ids.clear();
}

export const nameOf = (id) => names.get(id) ?? say("sender.unknown", { id });

/** 名字，或 id；都不是则 null。 */
export const personOf = (text) => ids.get(text.toLowerCase()) ?? readId(text);

export const knownNames = () => [...names.values()];
