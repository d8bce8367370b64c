/** The entry of every agent in AssemblyScript: it exports what the host calls, for the `agent` of the author's file. */

import { rotaAlloc, rotaStep } from "rota";
import { agent } from "agent";

export function rota_alloc(size: usize): usize {
  return rotaAlloc(size);
}

export function rota_step(at: usize, size: usize): u64 {
  return rotaStep(at, size, agent);
}
