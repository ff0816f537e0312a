/** Binary messages of visavis' protocol (docs/protocol.md): a header of 24 bytes, little-endian, and a payload. */

export const KIND = { voice: 0x01, listening: 0x02, portrait: 0x03, video: 0x11, audio: 0x12 };
/** The last message of an utterance, or of a picture file. */
export const LAST_PART = 0x01;

const HEADER_BYTES = 24;
const FLAG = { key: 0x01, config: 0x02, last: 0x04, first: 0x08, frozen: 0x40 };
const STATES = ["speaking", "listening", "idle"];

/** A message for the server; payload: Uint8Array. */
export function pack(kind, payload, { flags = 0, utterance = 0, value = 0 } = {}) {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(message.buffer);
  view.setUint8(0, kind);
  view.setUint8(1, flags);
  view.setUint32(4, utterance, true);
  view.setUint32(12, value, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

/**
 * {kind, key, config, last, first, frozen, state, epoch, utterance, sequence, value, pts_us, payload: Uint8Array} of an
 * ArrayBuffer; null when it is too short to be one.
 */
export function unpack(buffer) {
  if (buffer.byteLength < HEADER_BYTES) return null;
  const view = new DataView(buffer);
  const flags = view.getUint8(1);
  const named = Object.fromEntries(Object.entries(FLAG).map(([name, bit]) => [name, (flags & bit) !== 0]));
  return {
    ...named,
    kind: view.getUint8(0),
    state: STATES[(flags >> 4) & 3] ?? "idle",
    epoch: view.getUint16(2, true),
    utterance: view.getUint32(4, true),
    sequence: view.getUint32(8, true),
    value: view.getUint32(12, true),
    pts_us: Number(view.getBigUint64(16, true)),
    payload: new Uint8Array(buffer, HEADER_BYTES),
  };
}

/** 16-bit samples of an audio message, aligned. */
export function samplesOf(message) {
  return new Int16Array(message.payload.slice().buffer);
}

/** Mono sound as bytes: Int16Array, Float32Array in [-1, 1], or a buffer of 16-bit samples. Throws RangeError. */
export function toBytes(sound) {
  if (sound instanceof Float32Array) {
    return new Uint8Array(Int16Array.from(sound, (x) => Math.round(Math.min(Math.max(x, -1), 1) * 32767)).buffer);
  }
  const [buffer, at] = sound instanceof ArrayBuffer ? [sound, 0] : [sound.buffer, sound.byteOffset];
  if (sound.byteLength % 2) throw new RangeError(`${sound.byteLength} bytes are no whole number of 16-bit samples`);
  return new Uint8Array(buffer, at, sound.byteLength);
}

/** Base64url without padding, as the subprotocol that carries a token wants it. */
export function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
