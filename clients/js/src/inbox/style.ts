/** 元素的样子；颜色与尺寸是 `--mp-…`，应用在外面改，各部分也可以用 `::part(…)`。 */
export const STYLE = `
:host {
  --accent: var(--mp-accent, light-dark(#1f5f5b, #83cbc3));
  --on-accent: var(--mp-on-accent, light-dark(#fff, #08211f));
  --surface: var(--mp-surface, light-dark(#fff, #1c1b1a));
  --hover: var(--mp-hover, light-dark(#f0eeea, #262523));
  --ink: var(--mp-ink, light-dark(#1d1c1a, #eeebe5));
  --ink-soft: var(--mp-ink-soft, light-dark(#625e57, #aaa59b));
  --line: var(--mp-line, light-dark(#e3e0d9, #33312e));
  --danger: var(--mp-danger, light-dark(#a8261c, #ff9385));
  color: var(--ink);
  color-scheme: var(--mp-color-scheme, light dark);
  display: inline-block;
  font: var(--mp-font, 15px/1.45 system-ui, sans-serif);
  position: relative;
  text-align: start;
}
:host([hidden]), [hidden] { display: none !important; }
button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit; }
button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.bell { border-radius: 8px; height: 44px; position: relative; width: 44px; }
.bell:hover, .item:hover, .archive:hover { background: var(--hover); }
svg { fill: none; height: 22px; stroke: currentColor; stroke-width: 1.8; vertical-align: middle; width: 22px; }
.badge {
  background: var(--danger); border-radius: 10px; color: light-dark(#fff, #2a0f0b); font-size: 12px;
  font-weight: 600; line-height: 18px; min-width: 18px; padding: 0 5px; position: absolute; right: 1px; top: 3px;
  box-sizing: border-box;
}
.panel {
  background: var(--surface); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: 0 10px 30px rgb(0 0 0 / 18%); display: flex; flex-direction: column; inset-inline-end: 0;
  max-height: min(70vh, 560px); max-width: calc(100vw - 16px); overflow: hidden; position: absolute;
  top: calc(100% + 6px); width: var(--mp-width, 360px); z-index: var(--mp-z-index, 1000);
}
header { align-items: center; border-bottom: 1px solid var(--line); display: flex; gap: 8px; padding: 10px 14px; }
h2 { flex: 1; font-size: 1em; margin: 0; }
.link { color: var(--accent); min-height: 32px; padding: 2px 6px; }
.note { color: var(--ink-soft); margin: 0; padding: 12px 14px; }
.scroll { overflow-y: auto; }
ul { list-style: none; margin: 0; padding: 0; }
li { border-bottom: 1px solid var(--line); display: flex; }
.item { flex: 1; min-width: 0; padding: 10px 4px 10px 26px; position: relative; text-align: start; }
.archive { color: var(--ink-soft); flex: none; width: 44px; }
.archive svg { height: 18px; width: 18px; }
.item.unread .name { font-weight: 700; }
.item.unread::before {
  background: var(--accent); border-radius: 50%; content: ""; height: 8px; left: 11px; position: absolute; top: 17px; width: 8px;
}
.name, .text { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.text, .meta { color: var(--ink-soft); font-size: 13px; }
.mark { background: var(--hover); border-radius: 5px; color: var(--ink-soft); font-size: 12px; margin-inline-end: 6px; padding: 1px 6px; }
.mark.urgent { background: var(--danger); color: light-dark(#fff, #2a0f0b); font-weight: 600; }
.more { display: block; margin: 6px auto; }
.quiet { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; white-space: nowrap; width: 1px; }
@media (width < 480px) {
  .panel { inset: auto 8px 8px; max-height: 80vh; position: fixed; width: auto; }
}
`;
