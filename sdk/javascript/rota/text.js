// UTF-8, and the TextEncoder and TextDecoder that QuickJS lacks. Short texts are converted here, long ones by the engine.

import { decode, encode } from "./host.js";

const ENCODE_HERE_MAX = 16; // from about these lengths on a call of the host is faster
const DECODE_HERE_MAX = 6;

/** Return the bytes of a view or buffer as a Uint8Array over the same memory; undefined for anything else. */
export function bytesOf(value) {
  if (value instanceof Uint8Array) return value;
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return value instanceof ArrayBuffer || value instanceof SharedArrayBuffer ? new Uint8Array(value) : undefined;
}

/** Return the UTF-8 of a text; a lone surrogate becomes U+FFFD. */
export function utf8(text) {
  const length = text.length;
  if (length <= ENCODE_HERE_MAX) {
    const bytes = new Uint8Array(length);
    let place = 0;
    while (place < length) {
      const code = text.charCodeAt(place);
      if (code > 127) break;
      bytes[place++] = code;
    }
    if (place === length) return bytes;
  }
  return new Uint8Array(encode(text.isWellFormed() ? text : text.toWellFormed()));
}

/** Return the text of UTF-8 bytes. Bytes that are not UTF-8 become U+FFFD, or a TypeError if `fatal`. */
export function textOf(bytes, fatal = false) {
  const length = bytes.length;
  if (length <= DECODE_HERE_MAX) {
    let text = "";
    let place = 0;
    while (place < length) {
      const code = bytes[place];
      if (code > 127) break;
      text += String.fromCharCode(code);
      place++;
    }
    if (place === length) return text;
  }
  const text = decode(bytes);
  return text.includes("\ufffd") || !text.isWellFormed() ? exact(bytes, fatal) : text;
}

// The lowest second byte and the highest after these first bytes; otherwise 0x80 to 0xbf.
const LOWEST = { 0xe0: 0xa0, 0xf0: 0x90 };
const HIGHEST = { 0xed: 0x9f, 0xf4: 0x8f };

/** Decode as the Encoding Standard says: one U+FFFD for each maximal part of a character. */
function exact(bytes, fatal) {
  const parts = [];
  let place = 0;
  while (place < bytes.length) {
    const first = bytes[place];
    const more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : 3;
    let code = first;
    let seen = first >= 0x80 && (first < 0xc2 || first > 0xf4) ? -1 : 0;
    if (seen === 0 && more) {
      code = first & (0x3f >> more);
      while (seen < more) {
        const next = bytes[place + 1 + seen];
        const low = seen ? 0x80 : (LOWEST[first] ?? 0x80);
        const high = seen ? 0xbf : (HIGHEST[first] ?? 0xbf);
        if (next === undefined || next < low || next > high) break;
        code = (code << 6) | (next & 0x3f);
        seen++;
      }
    }
    if (seen === more) {
      parts.push(String.fromCodePoint(code));
    } else if (fatal) {
      throw new TypeError(`byte ${place} of ${bytes.length}: not UTF-8`);
    } else {
      parts.push("\ufffd");
    }
    place += 1 + Math.max(seen, 0);
  }
  return parts.join("");
}

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(text = "") {
    return utf8(String(text));
  }
  encodeInto(text, target) {
    let read = 0;
    let written = 0;
    for (const sign of String(text)) {
      const bytes = utf8(sign);
      if (written + bytes.length > target.length) break;
      target.set(bytes, written);
      written += bytes.length;
      read += sign.length;
    }
    return { read, written };
  }
}

export class TextDecoder {
  #fatal;
  #ignoreBOM;
  #rest = new Uint8Array(0);
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!/^\s*(unicode-1-1-)?utf-?8\s*$/i.test(label)) throw new RangeError(`there is only UTF-8 here, not ${label}`);
    this.#fatal = Boolean(fatal);
    this.#ignoreBOM = Boolean(ignoreBOM);
  }
  get encoding() {
    return "utf-8";
  }
  get fatal() {
    return this.#fatal;
  }
  get ignoreBOM() {
    return this.#ignoreBOM;
  }
  decode(input = new Uint8Array(0), { stream = false } = {}) {
    let bytes = bytesOf(input);
    if (bytes === undefined) throw new TypeError("decode takes an ArrayBuffer or a view of one");
    if (this.#rest.length) {
      const both = new Uint8Array(this.#rest.length + bytes.length);
      both.set(this.#rest);
      both.set(bytes, this.#rest.length);
      bytes = both;
    }
    const end = stream ? whole(bytes) : bytes.length;
    this.#rest = bytes.slice(end);
    const text = textOf(bytes.subarray(0, end), this.#fatal);
    return !this.#ignoreBOM && text.startsWith("\ufeff") ? text.slice(1) : text;
  }
}

/** Return how many of the bytes end with a whole character. */
function whole(bytes) {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? bytes.length - back : bytes.length;
    if (byte < 0x80) break;
  }
  return bytes.length;
}
