/**
 * 造一个元素。文字一律走 textContent：消息里的任何标记都只是文字。
 * `props` 里的 `data`、`aria` 是两组属性，`on` 是一组监听器，其余直接赋给元素的同名属性。
 */
export function element(tag, { data = {}, aria = {}, on = {}, ...props } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  for (const [type, listener] of Object.entries(on)) node.addEventListener(type, listener);
  node.append(...children.filter((child) => child !== null));
  return node;
}

export const byId = (id) => document.getElementById(id);
