import { element } from "./element.js";

/** 只认 http 与 https；末尾的标点是句子的，成对的右括号是地址的。 */
const LINK = /\bhttps?:\/\/[^\s<>"'`，。；：！？、）】》」』]+/gi;
const TRAILING = /[.,;:!?…]+$/;

/** 正文切成文字与链接；链接在新的标签页里打开，不告诉对方从哪里来。 */
export function linked(text) {
  const parts = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(LINK)) {
    const address = trimmed(found);
    if (!isAddress(address)) continue;
    parts.push(text.slice(end, index), link(address));
    end = index + address.length;
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

function trimmed(found) {
  let address = found.replace(TRAILING, "");
  while (address.endsWith(")") && count(address, ")") > count(address, "(")) {
    address = address.slice(0, -1).replace(TRAILING, "");
  }
  return address;
}

const count = (text, letter) => text.split(letter).length - 1;

function isAddress(address) {
  const url = URL.parse ? URL.parse(address) : parsed(address);
  return url !== null && ["http:", "https:"].includes(url.protocol) && !url.username && !url.password;
}

function parsed(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}

function link(address) {
  const rel = "noopener noreferrer nofollow";
  return element("a", { href: address, target: "_blank", rel, textContent: address });
}
