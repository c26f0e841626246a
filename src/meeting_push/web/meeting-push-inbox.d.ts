/* meeting-push 0.1.0, MIT; made from clients/js */
/**
 * `<meeting-push-inbox>`：铃铛与消息的列表，放进自己的页面就行，不要框架。
 *
 *     const inbox = document.querySelector("meeting-push-inbox");
 *     inbox.client = client; // 应用自己的 PushClient，由应用开始与停止
 *     inbox.addEventListener("open-message", ({ detail }) => show(detail));
 */
import type { PushClient } from "./meeting-push.js";
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
export {};
