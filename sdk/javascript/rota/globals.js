// The globals that agents expect and QuickJS lacks.

import { console } from "./console.js";
import { crypto } from "./random.js";
import { structuredClone } from "./structured_clone.js";
import { TextDecoder, TextEncoder } from "./text.js";
import { clearTimeout, setImmediate, setInterval, setTimeout } from "./timers.js";

const globals = {
  console,
  crypto,
  structuredClone,
  TextDecoder,
  TextEncoder,
  setTimeout,
  setInterval,
  setImmediate,
  clearTimeout,
  clearInterval: clearTimeout,
  clearImmediate: clearTimeout,
};
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
}
Error.stackTraceLimit = 20;
