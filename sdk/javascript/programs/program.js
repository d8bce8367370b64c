// An agent that runs the programs that it is sent: deploy this file, and send maps of docs/RUNTIMES.md.

export { agent } from "rota/program.js";
