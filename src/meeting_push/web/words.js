/** 界面文字：中文或英文。 */

export const dictionaries = {
  en: {
    inbox: "Inbox",
    "skip.list": "Skip to messages",
    tagline: "Messages, the moment they are sent.",
    "signin.title": "Sign in",
    "signin.submit": "Sign in",
    "signin.switch": "New here? Create an account",
    "register.title": "Create an account",
    "register.submit": "Create account",
    "register.switch": "Have an account? Sign in",
    username: "User name",
    password: "Password",
    "username.hint": "3 to 64 letters, digits or . _ @ + -",
    "password.hint": "At least 8 characters",
    "signin.replace":
      "This link signs you in as someone else. Leave the session of {name} and follow it?",
    "signin.ended": "Your session has ended. Please sign in again.",
    token: "Access token",
    "token.entry": "Use an access token instead",
    "token.hint": "It stays in this tab and is gone when you close it.",
    "token.submit": "Use this token",
    "token.refused": "The server does not accept this sign-in (wrong, expired or revoked).",
    no_accounts: "This server has no accounts of its own. Use an access token.",
    signout: "Sign out",
    "you.id": "ID {id}",
    "you.hint": "Your user ID: others need it to write to you",
    "unread.badge": "{count} unread",
    "read.all": "Mark all as read",
    compose: "New message",
    "list.label": "Messages, newest first",
    "list.empty": "No messages yet",
    "list.empty.hint": "What people send you appears here by itself.",
    "list.more": "Load more",
    "list.loading": "Loading…",
    "list.failed": "The inbox could not be loaded.",
    retry: "Try again",
    "pane.label": "Reading pane",
    "pane.empty": "Select a message to read it",
    back: "Back to the inbox",
    unread: "Unread",
    urgent: "Urgent",
    withdrawn: "Withdrawn",
    "type.notification": "Notification",
    "type.system": "System",
    "sender.unknown": "User {id}",
    "sender.self": "you",
    "sender.system": "The system",
    reply: "Reply",
    "reply.title": "Re: {title}",
    data: "Attached data",
    "meta.id": "Message ID",
    "meta.priority": "Priority",
    "meta.expires": "Expires",
    recipients: "Recipients",
    "recipients.hint": "Names or user IDs, separated by commas",
    title: "Title",
    content: "Message",
    priority: "Priority",
    "priority.normal": "{value} · normal",
    "priority.urgent": "{value} · urgent",
    receipt: "Tell me when it is delivered",
    send: "Send",
    sending: "Sending…",
    "delivery.title": "Delivery",
    "delivery.summary": "{delivered} of {total} delivered",
    "delivery.recipient": "Recipient",
    "delivery.state": "State",
    "delivery.attempts": "Attempts",
    "delivery.time": "Time",
    "delivery.more": "The first {shown} of {total} recipients are shown.",
    "state.pending": "On its way",
    "state.delivered": "Delivered",
    "state.failed": "Failed",
    "state.expired": "Expired",
    "connection.connecting": "Connecting…",
    "connection.live": "Live",
    "connection.waiting": "Offline",
    "connection.countdown": "retry in {seconds} s",
    "connection.retry": "Retry now",
    "connection.stopped": "Disconnected",
    "stopped.revoked": "Access was revoked. Sign in again to continue.",
    "stopped.kicked": "This device was disconnected by you or an administrator.",
    "stopped.replaced": "This account was opened on a newer device.",
    "stopped.invalid_token": "The server did not accept your sign-in.",
    "stopped.forbidden": "You may not read this inbox.",
    "stopped.other": "The server closed the connection for good ({reason}).",
    "stopped.reconnect": "Connect here",
    "stopped.signin": "Sign in again",
    "announce.one": "New message from {sender}: {title}",
    "announce.urgent": "Urgent message from {sender}: {title}",
    "announce.many": "{count} new messages",
    "notice.draining": "The server is restarting; this page reconnects by itself.",
    dismiss: "Dismiss",
    views: "Folders",
    "view.inbox": "Inbox",
    "view.unread": "Unread",
    "view.archived": "Archived",
    "view.sent": "Sent",
    search: "Search title and text",
    filter: "Kind of message",
    "filter.all": "All kinds",
    "list.none": "Nothing found",
    "list.none.hint": "Nothing here fits what you are looking for.",
    "type.message": "Message",
    "type.broadcast": "To everybody",
    "sent.to": "To {count} people",
    "sent.names": "To {names}",
    "sent.more": "and {more} more",
    "sent.everybody": "To everybody",
    "mark.unread": "Mark unread",
    archive: "Archive",
    unarchive: "Back to the inbox",
    withdraw: "Withdraw",
    "withdraw.sure": "Withdraw this message? Whoever has it sees only that it was withdrawn.",
    "withdrawn.text": "The sender has withdrawn this message.",
    "delivery.broadcast": "{delivered} have received it",
    "state.withdrawn": "Withdrawn",
    "reason.no_ack": "No device confirmed it",
    "reason.mailbox_evicted": "The mailbox was full",
    "reason.cancelled": "Withdrawn before it was due",
    "reason.delivered_too_often": "It could not be delivered",
    notify: "Desktop notifications",
    "notify.on": "Desktop notifications are on",
    "notify.off": "Turn on desktop notifications",
    "notify.denied": "This browser does not allow desktop notifications here",
    shortcuts: "Keyboard shortcuts",
    "keys.move": "Next, previous message",
    "keys.archive": "Archive, or back to the inbox",
    "keys.unread": "Mark unread",
    "keys.reply": "Reply",
    "keys.compose": "New message",
    "keys.search": "Search",
    "keys.back": "Back to the list",
    "keys.help": "This list",
    close: "Close",
    "field.recipient_ids": "Recipients",
    "field.title": "Title",
    "field.content": "Message",
    "field.other": "please check what you entered",
    and: ", ",
    "field.username": "User name",
    "field.password": "Password",
    "error.already_due": "This message can not be withdrawn.",
    "error.too_expensive": "This message is too large for so many recipients.",
    "error.weak_password": "This password is too easy to guess.",
    "error.account_disabled": "This account is disabled.",
    "error.outcome_unknown": "No answer came. Sending again is safe: it is not sent twice.",
    "error.network": "The server can not be reached. Check the connection and try again.",
    "error.bad_credentials": "User name or password is wrong.",
    "error.username_taken": "This user name is taken.",
    "error.rate_limited": "Too many attempts. Try again in {seconds} s.",
    "error.queue_full": "The server is busy. Try again in {seconds} s.",
    "error.invalid_input": "Not accepted: {fields}",
    "error.unknown_recipients": "There is no user with this ID: {ids}",
    "error.recipients": "Enter names you know or user IDs, separated by commas.",
    "error.payload_too_large": "This message is too large.",
    "error.forbidden": "You may not do this.",
    "error.not_found": "This message does not exist.",
    "error.session_expired": "Your session has ended. Please sign in again.",
    "error.unavailable": "The server is not ready. Nothing was lost; try again shortly.",
    "error.unexpected": "Something went wrong ({code}).",
  },
  zh: {
    inbox: "收件箱",
    "skip.list": "跳到消息列表",
    tagline: "消息发出，即刻到达。",
    "signin.title": "登录",
    "signin.submit": "登录",
    "signin.switch": "还没有账号？注册一个",
    "register.title": "注册账号",
    "register.submit": "注册",
    "register.switch": "已有账号？去登录",
    username: "用户名",
    password: "密码",
    "username.hint": "3～64 个字母、数字或 . _ @ + -",
    "password.hint": "至少 8 个字符",
    "signin.replace": "这个链接会以另一个人的身份登录。离开 {name} 的登录，换成它吗？",
    "signin.ended": "登录已失效，请重新登录。",
    token: "访问令牌",
    "token.entry": "改用访问令牌",
    "token.hint": "只留在这个标签页里，关上就没有了。",
    "token.submit": "用这个令牌",
    "token.refused": "服务器不接受这个登录（不对、过期或被吊销）。",
    no_accounts: "这台服务器没有自己的账号，请用访问令牌。",
    signout: "退出登录",
    "you.id": "ID {id}",
    "you.hint": "你的用户 ID：别人凭它给你发消息",
    "unread.badge": "{count} 条未读",
    "read.all": "全部标为已读",
    compose: "写消息",
    "list.label": "消息，新的在前",
    "list.empty": "还没有消息",
    "list.empty.hint": "别人发来的消息会自动出现在这里。",
    "list.more": "加载更多",
    "list.loading": "加载中…",
    "list.failed": "收件箱加载失败。",
    retry: "重试",
    "pane.label": "阅读区",
    "pane.empty": "选一条消息来阅读",
    back: "返回收件箱",
    unread: "未读",
    urgent: "紧急",
    withdrawn: "已撤回",
    "type.notification": "通知",
    "type.system": "系统",
    "sender.unknown": "用户 {id}",
    "sender.self": "你自己",
    "sender.system": "系统",
    reply: "回复",
    "reply.title": "回复：{title}",
    data: "附带数据",
    "meta.id": "消息 ID",
    "meta.priority": "优先级",
    "meta.expires": "过期时间",
    recipients: "收件人",
    "recipients.hint": "名字或用户 ID，用逗号分隔",
    title: "标题",
    content: "正文",
    priority: "优先级",
    "priority.normal": "{value} · 普通",
    "priority.urgent": "{value} · 紧急",
    receipt: "送达时告诉我",
    send: "发送",
    sending: "发送中…",
    "delivery.title": "送达情况",
    "delivery.summary": "已送达 {delivered} / {total}",
    "delivery.recipient": "收件人",
    "delivery.state": "状态",
    "delivery.attempts": "次数",
    "delivery.time": "时间",
    "delivery.more": "只显示 {total} 位收件人中的前 {shown} 位。",
    "state.pending": "投递中",
    "state.delivered": "已送达",
    "state.failed": "失败",
    "state.expired": "已过期",
    "connection.connecting": "连接中…",
    "connection.live": "实时",
    "connection.waiting": "离线",
    "connection.countdown": "{seconds} 秒后重试",
    "connection.retry": "立即重试",
    "connection.stopped": "已断开",
    "stopped.revoked": "访问权限已被吊销，请重新登录。",
    "stopped.kicked": "这台设备已被你或管理员断开。",
    "stopped.replaced": "这个账号已在更新的设备上打开。",
    "stopped.invalid_token": "服务器不接受当前的登录。",
    "stopped.forbidden": "你无权查看这个收件箱。",
    "stopped.other": "服务器永久关闭了连接（{reason}）。",
    "stopped.reconnect": "在这里连接",
    "stopped.signin": "重新登录",
    "announce.one": "{sender} 发来新消息：{title}",
    "announce.urgent": "{sender} 发来紧急消息：{title}",
    "announce.many": "{count} 条新消息",
    "notice.draining": "服务器正在重启，本页会自动重连。",
    dismiss: "关闭提示",
    views: "文件夹",
    "view.inbox": "收件箱",
    "view.unread": "未读",
    "view.archived": "归档",
    "view.sent": "已发送",
    search: "搜索标题与正文",
    filter: "消息的种类",
    "filter.all": "全部种类",
    "list.none": "没有找到",
    "list.none.hint": "这里没有符合条件的消息。",
    "type.message": "消息",
    "type.broadcast": "全体",
    "sent.to": "发给 {count} 人",
    "sent.names": "发给 {names}",
    "sent.more": "等 {count} 人",
    "sent.everybody": "发给所有人",
    "mark.unread": "标为未读",
    archive: "归档",
    unarchive: "放回收件箱",
    withdraw: "撤回",
    "withdraw.sure": "撤回这条消息吗？收到它的人只会看到它已撤回。",
    "withdrawn.text": "发送者撤回了这条消息。",
    "delivery.broadcast": "{delivered} 人已收到",
    "state.withdrawn": "已撤回",
    "reason.no_ack": "没有设备确认收到",
    "reason.mailbox_evicted": "信箱满了",
    "reason.cancelled": "送出之前撤回了",
    "reason.delivered_too_often": "没能送出",
    notify: "桌面通知",
    "notify.on": "桌面通知已打开",
    "notify.off": "打开桌面通知",
    "notify.denied": "浏览器不允许这里的桌面通知",
    shortcuts: "键盘快捷键",
    "keys.move": "下一条、上一条",
    "keys.archive": "归档，或放回收件箱",
    "keys.unread": "标为未读",
    "keys.reply": "回复",
    "keys.compose": "写消息",
    "keys.search": "搜索",
    "keys.back": "回到列表",
    "keys.help": "这张表",
    close: "关闭",
    "field.recipient_ids": "收件人",
    "field.title": "标题",
    "field.content": "正文",
    "field.other": "请检查填写的内容",
    and: "、",
    "field.username": "用户名",
    "field.password": "密码",
    "error.already_due": "这条消息不能撤回。",
    "error.too_expensive": "收件人这么多时，这条消息太大了。",
    "error.weak_password": "这个密码太容易猜到。",
    "error.account_disabled": "这个账号已停用。",
    "error.outcome_unknown": "没有得到回答；再发一次是安全的，不会发成两条。",
    "error.network": "连不上服务器，请检查网络后重试。",
    "error.bad_credentials": "用户名或密码不对。",
    "error.username_taken": "这个用户名已被占用。",
    "error.rate_limited": "尝试太频繁，请 {seconds} 秒后再试。",
    "error.queue_full": "服务器繁忙，请 {seconds} 秒后再试。",
    "error.invalid_input": "未被接受：{fields}",
    "error.unknown_recipients": "没有这个 ID 的用户：{ids}",
    "error.recipients": "请填认识的名字或用户 ID，用逗号分隔。",
    "error.payload_too_large": "这条消息太大了。",
    "error.forbidden": "你无权这样做。",
    "error.not_found": "这条消息不存在。",
    "error.session_expired": "登录已失效，请重新登录。",
    "error.unavailable": "服务器尚未就绪，什么都没有丢，请稍后再试。",
    "error.unexpected": "出了点问题（{code}）。",
  },
};

/** 界面语言：用户选过的，否则跟随浏览器。 */
const KEPT_AS = "meeting-push.language";
const browsers = (navigator.language || "en").toLowerCase();
export const language = (localStorage.getItem(KEPT_AS) ?? browsers).startsWith("zh") ? "zh" : "en";
const words = dictionaries[language];
/** 时间的写法跟随界面语言，地区习惯（12/24 小时）跟随浏览器。 */
export const locale = browsers.startsWith(language) ? navigator.language : { zh: "zh-CN", en: "en" }[language];
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const day = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });
const date = new Intl.DateTimeFormat(locale, { dateStyle: "medium" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });

const lists = new Intl.ListFormat(locale, { type: "conjunction" });

/** 换一种语言，从头显示这一页。 */
export function choose(next) {
  localStorage.setItem(KEPT_AS, next);
  location.reload();
}

/** 另一页自己的文字，两种语言各一份。 */
export function learn(more) {
  for (const [name, added] of Object.entries(more)) Object.assign(dictionaries[name], added);
}

/** 一句界面文字；`{name}` 换成 `values.name`。 */
export function say(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** 把 HTML 里 `data-say`、`data-say-label`、`data-say-placeholder`、`data-say-hint` 标着的地方填上。 */
export function fillWords(root) {
  document.documentElement.lang = { zh: "zh-CN", en: "en" }[language];
  for (const node of root.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
  for (const node of root.querySelectorAll("[data-say-label]")) {
    node.setAttribute("aria-label", say(node.dataset.sayLabel));
  }
  for (const node of root.querySelectorAll("[data-say-placeholder]")) {
    node.placeholder = say(node.dataset.sayPlaceholder);
  }
  for (const node of root.querySelectorAll("[data-say-hint]")) node.title = say(node.dataset.sayHint);
}

/** 把一个错误说成人话；按错误码，不靠服务器的英文消息。 */
export function explain(error) {
  const details = error.details ?? {};
  const seconds = error.retryAfterS ?? secondsOf(error.retryAfterMs) ?? details.retry_after_s ?? 1;
  const ids = (details.user_ids ?? []).join(", ");
  const fields = fieldsOf(error).join(say("and"));
  const values = { code: error.code, fields, seconds, ids };
  if (`error.${error.code}` in words) return say(`error.${error.code}`, values);
  return say(error.temporary ? "error.unavailable" : "error.unexpected", values);
}

const secondsOf = (ms) => (ms ? Math.ceil(ms / 1000) : null);

/** 哪几项不对；服务器的英文只用来认出是哪一项。 */
function fieldsOf({ details, message }) {
  const named = Array.isArray(details) ? details.map(({ field }) => field) : [message.split(":", 1)[0]];
  const known = named.map((field) => String(field).split(/[.[]/, 1)[0]);
  const found = known.map((field) => words[`field.${field}`]).filter(Boolean);
  return found.length > 0 ? [...new Set(found)] : [say("field.other")];
}

/** 列表里的时间：今天只写钟点，今年写月日，更早写年月日。 */
export function shortTime(ms) {
  const then = new Date(ms);
  const now = new Date();
  if (then.toDateString() === now.toDateString()) return clock.format(then);
  return (then.getFullYear() === now.getFullYear() ? day : date).format(then);
}

/** “甲、乙和丙”。 */
export const listed = (names) => lists.format(names);
export const fullTime = (ms) => full.format(new Date(ms));
export const exactTime = (ms) => exact.format(new Date(ms));
