// The functions of the host (runtimes/javascript_driver.py), taken from the global object so that no agent sees them.

const host = globalThis.__rota_host;
delete globalThis.__rota_host;

export const {
  log, //          (text): one or more lines of the task's log
  encode, //       (text) -> ArrayBuffer, UTF-8
  decode, //       (Uint8Array) -> text; bytes that are not UTF-8 become U+FFFD or lone surrogates
  packPlain, //    (JSON) -> ArrayBuffer with its MessagePack, or undefined if the host leaves it to us
  unpackPlain, //  (Uint8Array) -> JSON of the MessagePack value, or undefined likewise
  equal, //        (Uint8Array, Uint8Array of the same length) -> boolean
  read, //         (path) -> ArrayBuffer of a file of the bundle, or undefined
  evaluate, //     (path, source) -> the value of a script
  evaluateAsync, //(path, source) -> a promise of {value} of a script that may await
  evaluateModule, // (path, source) -> a promise of the namespace of a module
  tensorRead, //   (index, offset, size: BigInts) -> ArrayBuffer, or an error number as BigInt
  tensorNew, //    (dtype, shape: BigInt64Array, data: Uint8Array) -> index or error number, a BigInt
} = host;
