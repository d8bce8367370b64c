// What `import ... from "rota"` gives. A handler needs none of it: it gets its context.

import { file, join } from "./modules.js";
import { textOf } from "./text.js";

export { args, env } from "./deployed.js";
export { AskFailed } from "./failures.js";
export { asCompleted } from "./flow.js";
export { pack, unpack } from "./messagepack.js";

/** Return the bytes of a file that was deployed with the agent. Throws a ReferenceError if there is none. */
export function readFile(path) {
  const bytes = file(join("", path));
  if (bytes === undefined) throw new ReferenceError(`there is no file ${path} in what was deployed`);
  return bytes.slice();
}

/** Return the text of a file that was deployed with the agent. */
export function readText(path) {
  return textOf(readFile(path), true);
}
