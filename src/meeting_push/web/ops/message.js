/** 跟着一条消息走：每个收件人一条时间线，每一步隔了几毫秒。 */

import { element } from "../element.js";
import { say } from "../words.js";
import { action, badge, facts, finder, note, Panel, user } from "./parts.js";
import { countText, durationText, momentText } from "./quantity.js";
import { stateOf } from "./user.js";

const PAGE = 20;

export function showMessage({ signal, call }, [id, recipient]) {
  const find = finder(say("ops.message.id"), "message", id, { placeholder: "01J…" });
  if (!id) return [find, note(say("ops.message.hint"))];
  const path = `messages/${encodeURIComponent(id)}/trace?limit=${PAGE}`;
  const only = recipient ? `&recipient=${encodeURIComponent(recipient)}` : "";
  const list = element("ol", { className: "recipients" });
  let cursor = null;
  const ask = () => call("GET", `${path}${only}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
  const add = (trace) => {
    cursor = trace.next_cursor;
    more.hidden = !cursor;
    list.append(...trace.recipients.map((one) => recipientOf(one, trace)));
  };
  const more = action("list.more", async () => {
    const trace = await ask();
    if (!signal.aborted) add(trace);
  });
  const panel = new Panel(say("ops.message.title"), {
    name: "message",
    signal,
    tools: [action("ops.again", () => panel.refresh())],
    ask: () => {
      cursor = null;
      return ask();
    },
    show: (trace) => {
      list.replaceChildren();
      add(trace);
      return [...headOf(trace, id), narrow(id, recipient), list, more];
    },
  });
  return [find, panel.node];
}

function headOf(trace) {
  const silent = trace.silent_nodes ?? [];
  const missing = [
    silent.length ? say("ops.silent.nodes", { nodes: silent.join(", ") }) : "",
    trace.fleet_asked === false ? say("ops.trace.alone") : "",
    trace.truncated ? say("ops.trace.truncated") : "",
  ].filter(Boolean);
  return [
    element("p", { className: "summary title", dir: "auto", textContent: trace.title }),
    facts([
      [say("ops.message.id"), element("span", { className: "mono", textContent: trace.message_id })],
      [say("ops.sender"), trace.sender_id ? user(trace.sender_id) : say("ops.sender.system")],
      [say("ops.type"), say(`ops.type.${trace.message_type}`)],
      [say("ops.priority"), String(trace.priority)],
      [say("ops.recipients"), countText(trace.recipient_count)],
      [say("ops.accepted.at"), momentText(trace.accepted_at)],
      [say("ops.deliver.at"), trace.deliver_at ? momentText(trace.deliver_at) : null],
      [say("ops.enqueued.at"), trace.enqueued_at ? momentText(trace.enqueued_at) : null],
      [say("ops.expires.at"), momentText(trace.expires_at)],
    ]),
    ...missing.map((text) => element("p", { className: "trouble", textContent: text })),
  ];
}

/** 收件人很多时只看一个。 */
function narrow(id, recipient) {
  const input = element("input", {
    id: "recipient",
    inputMode: "numeric",
    value: recipient ?? "",
    autocomplete: "off",
  });
  const submit = (event) => {
    event.preventDefault();
    const wanted = input.value.trim();
    location.hash = `#message/${encodeURIComponent(id)}${wanted ? `/${encodeURIComponent(wanted)}` : ""}`;
  };
  return element(
    "form",
    { className: "finder small", on: { submit } },
    element("label", {}, element("span", { textContent: say("ops.recipient.only") }), input),
    element("button", { type: "submit", className: "secondary", textContent: say("ops.show") }),
  );
}

function recipientOf(one, trace) {
  const start = trace.accepted_at;
  let before = start;
  const steps = one.events.map((event) => {
    const step = stepOf(event, start, before);
    before = event.at;
    return step;
  });
  return element(
    "li",
    { className: "panel recipient", data: { user: one.user_id } },
    element(
      "header",
      {},
      element("h3", {}, say("ops.recipient"), " ", user(one.user_id)),
      element("span", {}, ...[stateOf(one.status, one.failure_reason)].flat()),
      element("span", {
        className: "muted",
        textContent: say("ops.attempts.count", { count: one.attempts }),
      }),
    ),
    steps.length ? element("ol", { className: "steps" }, ...steps) : note(say("ops.trace.none")),
  );
}

const BAD = ["failed", "expired"];

function stepOf({ stage, at, node_id: node, source, detail }, start, before) {
  const marks = [
    node
      ? element("span", { className: "mono muted", title: node, textContent: `…${node.slice(-6)}` })
      : null,
  ];
  if (source) marks.push(badge(say(`ops.source.${source}`)));
  if (detail)
    marks.push(
      element("span", {
        className: "muted",
        dir: "auto",
        textContent: detailText(detail),
      }),
    );
  return element(
    "li",
    { className: BAD.includes(stage) ? "bad" : "", data: { stage } },
    element("strong", { textContent: say(`ops.stage.${stage}`) }),
    element("time", { className: "mono", textContent: preciseText(at) }),
    element("span", {
      className: "delta",
      textContent: say("ops.after.start", { time: durationText(Math.max(0, at - start)) }),
    }),
    element("span", { className: "delta step", textContent: `+${durationText(Math.max(0, at - before))}` }),
    element("span", { className: "marks" }, ...marks.filter(Boolean)),
  );
}

function preciseText(at) {
  const time = new Date(at);
  const two = (value, width = 2) => String(value).padStart(width, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${two(time.getMilliseconds(), 3)}`;
}

/** 服务器的话里认得的换成界面的；别的（原因的码）照写。 */
function detailText(detail) {
  const [, attempt] = /^attempt (\d+)$/.exec(detail) ?? [];
  return attempt ? say("ops.attempt", { count: attempt }) : detail;
}
