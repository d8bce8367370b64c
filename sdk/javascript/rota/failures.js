// What ends a handler that did not fail by itself.

/** Ends the handler after `ctx.fail`. */
export class Failure extends Error {}

/** The failure of what a flow has asked of `target`. `kind` and `message` are as docs/PROTOCOL.md lists them. */
export class AskFailed extends Error {
  constructor(kind, message, target) {
    super(message);
    this.kind = kind;
    this.target = target;
  }

  toString() {
    return `AskFailed: ${this.kind}: ${this.message}`;
  }
}
