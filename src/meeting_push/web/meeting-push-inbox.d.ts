/* meeting-push 0.2.0, MIT; made from clients/js */
import type { PushClient, Message, Counts, InboxItem, InboxQuery } from "./meeting-push.js";
/** 收件箱里的：以记录为准，推来的先放进去。铃铛与收件箱页面都建在它上面；没有界面。 */
/** 看哪些；都没有说就是没有归档的全部。 */
export type View = Pick<InboxQuery, "unread" | "archived" | "message_type" | "min_priority" | "q">;
export type Item = Pick<InboxItem, "message_id" | "message_type" | "title" | "content" | "priority" | "expires_at" | "data"> & {
    sender: InboxItem["sender"] | null;
    timestamp: number;
    read: boolean;
    archived: boolean;
    withdrawn: boolean;
    broadcast: boolean;
};
export declare class Inbox {
    #private;
    private client;
    private changed;
    items: Item[];
    counts: Counts;
    view: View;
    state: "loading" | "ready" | "failed";
    cursor: string | null;
    constructor(client: PushClient, changed: (arrived: Item[]) => void);
    get unread(): number;
    start(): void;
    stop(): void;
    get(id: string): Item | undefined;
    /** 换一个看法：从头取。 */
    show(view: View): Promise<void>;
    reload(): Promise<void>;
    more(): Promise<void>;
    read(id: string, read?: boolean): Promise<void>;
    archive(id: string, archived?: boolean): Promise<void>;
    /** 到最新的一条为止；没显示出来的也在内。 */
    readAll(): Promise<void>;
}
/** 在记录里的 id 是 ULID；别的进程发布的瞬时消息不一定是，也没有已读可记。 */
export declare const isRecorded: (id: string) => boolean;
/** 一条的样子：推来的只保证有 id、标题与正文。 */
export declare function itemOf(one: Message | InboxItem): Item;

/**
 * `<meeting-push-inbox>`：铃铛与消息的列表，放进自己的页面就行，不要框架。
 *
 *     const inbox = document.querySelector("meeting-push-inbox");
 *     inbox.client = client; // 应用自己的 PushClient，由应用开始与停止
 *     inbox.addEventListener("open-message", ({ detail }) => show(detail));
 */
/** 在服务器上渲染时没有 HTMLElement：导入无事，造不出来。 */
declare const Base: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
declare global {
    interface HTMLElementTagNameMap {
        "meeting-push-inbox": MeetingPushInbox;
    }
}
export declare class MeetingPushInbox extends Base {
    #private;
    static observedAttributes: string[];
    constructor();
    /** 应用自己的客户端；换一个（换了人）就从头取。 */
    get client(): PushClient | null;
    set client(client: PushClient | null);
    /** 未读数；变了有 `unread-change` 事件。 */
    get unread(): number;
    connectedCallback(): void;
    disconnectedCallback(): void;
    attributeChangedCallback(): void;
}
