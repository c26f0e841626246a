/** 两种语言的字；`{…}` 是要填的。 */
const WORDS = {
  zh: {
    bell: "通知",
    unread: "通知，{count} 条未读",
    title: "消息",
    readAll: "全部标为已读",
    more: "更多",
    empty: "没有消息",
    failed: "取不到消息",
    retry: "再试一次",
    offline: "连接断开，正在重连",
    stopped: "连接已停止",
    system: "系统",
    isUnread: "未读",
    urgent: "紧急",
    notification: "通知",
    broadcast: "全体",
    archive: "归档（e）",
    archiveOne: "归档：{title}",
    archived: "已归档：{title}",
    withdrawn: "已撤回",
    arrived: "新消息：{title}",
    arrivedMany: "{count} 条新消息",
  },
  en: {
    bell: "Notifications",
    unread: "Notifications, {count} unread",
    title: "Messages",
    readAll: "Mark all read",
    more: "More",
    empty: "No messages",
    failed: "The messages could not be fetched",
    retry: "Try again",
    offline: "Disconnected, reconnecting",
    stopped: "Connection stopped",
    system: "System",
    isUnread: "Unread",
    urgent: "Urgent",
    notification: "Notification",
    broadcast: "To everybody",
    archive: "Archive (e)",
    archiveOne: "Archive: {title}",
    archived: "Archived: {title}",
    withdrawn: "Withdrawn",
    arrived: "New message: {title}",
    arrivedMany: "{count} new messages",
  },
};

export type Word = keyof (typeof WORDS)["zh"];
export type Language = keyof typeof WORDS;

/** 元素自己的 `lang`，它所在的，浏览器的；中文以外都用英文。 */
export function languageOf(element: Element): Language {
  const given = element.closest("[lang]")?.getAttribute("lang") || navigator.language;
  return given.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function say(language: Language, word: Word, values: Record<string, unknown> = {}): string {
  return WORDS[language][word].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

/** 今天的说时刻，别的说日子。 */
export function when(language: Language, timestamp: number): string {
  const date = new Date(timestamp);
  if (Number.isNaN(date.getTime())) return "";
  const today = date.toDateString() === new Date().toDateString();
  const style = today ? ({ timeStyle: "short" } as const) : ({ dateStyle: "medium" } as const);
  return new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en", style).format(date);
}
