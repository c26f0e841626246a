// 参考解析器对一份文档的全部意见，一行一条；没有意见就什么也不印。
// node asyncapi_parser.mjs <装着 @asyncapi/parser 的目录> <文档>
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [folder, path] = process.argv.slice(2);
const { Parser } = createRequire(`${folder}/package.json`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
for (const { code, path: where, message } of diagnostics) console.log(code, where.join("."), message);
if (document === undefined) console.log("no document");
