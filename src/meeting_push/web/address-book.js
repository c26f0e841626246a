/**
 * 这个标签页里见过的人：id 与名字。写给谁可以写名字，送达情况里显示名字。
 *
 * 名字是服务器说的：随消息来的，投递状态里的，按名字找到的；没有名字的只有 id。重新载入还在，登出就没有了。
 */

import { readId } from "./rest.js";
import { say } from "./words.js";

const KEPT = "meeting-push.people";
/** 记着最近见到的这么多个。 */
const MOST = 500;
/** 一次问这么多个没见过的名字。 */
const MOST_ASKED = 20;
const MOST_CHARS = 64;

const names = new Map();
const ids = new Map();
let owner = null;
let keeping = false;

/** 换了人；是同一个人，见过的还在。 */
export function recall(userId) {
  forgetEverybody();
  owner = String(userId);
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  if (kept?.owner === owner) for (const [id, name] of kept.people) meet({ id, name });
}

export function meet(person) {
  const { id, name } = person ?? {};
  if (!id || !name || names.get(id) === name) return;
  names.delete(id);
  names.set(id, name);
  const key = name.toLowerCase();
  ids.set(key, ids.has(key) && ids.get(key) !== id ? null : id); // 同名的说不清是谁
  keepSoon();
}

function forgetEverybody() {
  names.clear();
  ids.clear();
  owner = null;
}

/** 登出了：存着的也没有了。 */
export function forgetKept() {
  forgetEverybody();
  sessionStorage.removeItem(KEPT);
}

function keepSoon() {
  if (keeping || owner === null) return;
  keeping = true;
  queueMicrotask(() => {
    keeping = false;
    if (owner === null) return;
    const people = [...names].slice(-MOST);
    sessionStorage.setItem(KEPT, JSON.stringify({ owner, people }));
  });
}

export const nameOf = (id) => names.get(id) ?? say("sender.unknown", { id });

/** 见过的人怎样写：名字；同名的带上 id。 */
export const knownNames = () =>
  [...names].map(([id, name]) => (ids.get(name.toLowerCase()) === id ? name : `${name} (${id})`));

/** 见过的人的名字，或 `名字 (id)`。 */
function met(text) {
  const id = ids.get(text.toLowerCase());
  if (id) return id;
  const [, name, inside] = /^(.*\S)\s*\(([^()]+)\)$/.exec(text) ?? [];
  const given = inside === undefined ? null : readId(inside.trim());
  return given !== null && names.get(given)?.toLowerCase() === name.toLowerCase() ? given : null;
}

/** 是数的 id 不会是谁的名字。 */
const known = (text) => met(text) ?? (typeof readId(text) === "number" ? readId(text) : null);

/**
 * 名字、id → id，次序照旧；说不清是谁的是 null。空白也可以分开几个，除非连起来是一个名字。
 *
 * 没见过的一起问一次 `find(几段字)`，找到的见过了。
 */
export async function personsOf(texts, find) {
  const each = texts.map((text) => ({ text, words: text.split(/\s+/) }));
  const strange = each
    .filter(({ text, words }) => known(text) === null && !words.every(known))
    .flatMap(({ text, words }) => (words.length > 1 ? [text, ...words] : [text]));
  const asked = [...new Set(strange)].filter((text) => text.length <= MOST_CHARS);
  if (asked.length > 0) (await find(asked.slice(0, MOST_ASKED))).forEach(meet);
  return each.flatMap(({ text, words }) => {
    const id = known(text);
    if (id !== null || words.length === 1) return [id ?? readId(text)];
    return words.map(known);
  });
}
