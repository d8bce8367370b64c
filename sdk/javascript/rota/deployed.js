// What was deployed with the source beside its files: arguments and environment.

export const args = [];
export const env = {};

export function setDeployed(given, variables) {
  args.push(...given);
  Object.assign(env, variables);
}
