// What the ES module that stands for a CommonJS module imports (modules.js, `load`).

export { requireFile } from "./modules.js";
