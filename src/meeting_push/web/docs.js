/** 接口文档：Swagger UI 画出 `/openapi.json`。全部来自本机，不连外网。 */

import { root } from "./rest.js";

const document_ = await (await fetch(new URL("openapi.json", root))).json();
// 挂在反向代理的前缀下时，“Try it out” 也要打到前缀下面
document_.servers = [{ url: root.href.replace(/\/$/, "") }];

const { presets } = SwaggerUIBundle;
SwaggerUIBundle({
  spec: document_,
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  presets: [presets.apis],
  validatorUrl: null, // 不把文档送到别处去检验
});
