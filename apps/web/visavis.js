/**
 * The client side of visavis' WebSocket protocol, version 1 (docs/protocol.md). No page, no sound, no decoder, no
 * dependency; for browsers and for Node 22 or newer.
 *
 *     import { connect } from "./visavis.js";
 *     const avatar = await connect("ws://127.0.0.1:8765", {
 *       portrait: "anna",
 *       onvideo: ({ payload, pts_us }) => show(payload, pts_us),
 *       onaudio: ({ payload, pts_us }) => play(payload, pts_us),
 *     });
 *     avatar.pushAudio(samples, { rate: 24000 });   // any length, faster than real time is welcome
 *     avatar.flush();                               // the utterance is complete
 *     const { position_s } = await avatar.interrupt();
 *     await avatar.close();
 */

import { Outbox } from "./outbox.js";
import { KIND, LAST_PART, base64url, pack, toBytes, unpack } from "./wire.js";

export { samplesOf } from "./wire.js";

const PROTOCOL = 1;
const PATH = "/v1/avatar";
/** Closes after which there is nothing to come back to. */
const FINAL_CLOSES = new Set([
  1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 4000, 4001, 4002, 4003, 4004, 4005, 4006,
]);
const WELCOME_MS = 40_000;
const ANSWER_MS = 10_000;
const CLOSE_MS = 1_500;
const FIRST_RETRY_MS = 250;
const LONGEST_RETRY_MS = 4_000;
/** metrics come each second; see "Losing and resuming" in the protocol. */
const SILENT_MS = 16_000;
/** Bytes that wait in the socket from which on live sound is skipped: it would only come late. */
const LIVE_BACKLOG_BYTES = 65_536;
/** Bytes of one voice message, one second at 48 kHz: an interrupt that follows need not wait for more. */
const VOICE_BYTES = 96_000;

/**
 * The server, or the way to it, said no. `code` is stable: one of the protocol's, or `unreachable`, `timeout`, `lost`,
 * `closed`. `retryable` says whether to try again later.
 */
export class RefusedError extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.name = "RefusedError";
    this.code = code;
    this.retryable = retryable;
  }
}

/**
 * Open a session and acknowledge pictures by itself. url: `ws://HOST:PORT` or `http://HOST:PORT`. options: `portrait`, a
 * library name or a picture file (Blob, ArrayBuffer, Uint8Array); `token`, `resume`, `onvideo`, `onaudio`, `onmessage`,
 * `onstate` as in Avatar; everything else goes into the hello. Raises RefusedError.
 */
export async function connect(url, options = {}) {
  const { portrait, token, resume, onvideo, onaudio, onmessage, onstate, ...more } = options;
  const isFile = portrait && typeof portrait !== "string";
  const hello = { video: { window: 8, ...more.video }, ...without(more, "video") };
  if (typeof portrait === "string") hello.portrait = { library: portrait };
  const upload = isFile ? new Blob([portrait]) : null;
  const avatar = new Avatar({ url: endpoint(url), token, hello, upload, resume, acknowledge: true });
  Object.assign(avatar, given({ onvideo, onaudio, onmessage, onstate }));
  await avatar.connect();
  return avatar;
}

/** GET /v1/info of the server that a WebSocket address belongs to. Raises RefusedError. */
export async function info(url, token = "") {
  const response = await get(url, "v1/info", token);
  return response.json();
}

/** A library portrait's face, as a Blob. Raises RefusedError. */
export async function thumbnail(url, name, token = "") {
  const response = await get(url, `v1/portraits/${encodeURIComponent(name)}.jpg`, token);
  return response.blob();
}

export class Avatar {
  /** What the server said first, null before; and the count of interrupts that cut something. */
  welcome = null;
  epoch = 0;
  /** Live sound that was skipped since the network could not carry it, in ms. */
  skipped_ms = 0;
  /** onstate(state, error): "connecting", "live", "lost", "resuming" or "closed". */
  onstate = () => {};
  /** onvideo(message), onaudio(message): see `unpack` in wire.js. */
  onvideo = () => {};
  onaudio = () => {};
  /** onmessage(object): every JSON message. */
  onmessage = () => {};

  #options;
  #socket = null;
  #resume = null;
  #after = 0;
  #ids = 0;
  #asked = new Map();
  #outbox = new Outbox((data) => this.#transmit(data));
  #highest = 0;
  #open_utterance = 0;
  #closing = false;
  #closed = false;
  #cutting = 0;
  #heard_ms = 0;
  #watch = null;
  /** The connection that stands, or is being made. */
  #begun = null;

  /**
   * url: ws(s)://HOST/v1/avatar. token: as the server was started with. hello: fields of the hello message. upload: a
   * Blob with the portrait, instead of hello.portrait. resume: come back by itself when the connection is lost.
   * acknowledge: a picture counts as shown once `onvideo` has returned, or its promise is settled; else call `ack`.
   */
  constructor({ url, token = "", hello = {}, upload = null, resume = true, acknowledge = false }) {
    this.#options = { url, token, hello, upload, resume, acknowledge };
  }

  /** Begin the session; gives `welcome`. Raises RefusedError. */
  async connect() {
    const { url, token, hello, upload } = this.#options;
    this.#state("connecting");
    const portrait = upload ? { upload_bytes: upload.size } : hello.portrait;
    try {
      return await this.#open({ ...hello, portrait });
    } catch (refusal) {
      this.#closed = true;
      // Of an upgrade that was refused a browser says nothing; this does.
      throw refusal.code === "unreachable" ? await info(url, token).then(() => refusal, (reason) => reason) : refusal;
    }
  }

  /** End the session as agreed with the server. Idempotent. */
  async close() {
    if (this.#closed) return;
    this.#closing = true;
    const socket = this.#socket;
    if (this.#isLive()) {
      const closed = new Promise((done) => socket.addEventListener("close", done, { once: true }));
      this.send({ type: "bye" });
      await Promise.race([closed, pause(CLOSE_MS)]);
    }
    socket?.close(1000);
    this.#finish(null);
  }

  /** The utterance that sound goes to now; 0 for none. */
  get utterance() {
    return this.#open_utterance;
  }

  /** Sound that waits here since the server has enough of it, in ms. */
  get waiting_ms() {
    return this.#outbox.waiting_ms;
  }

  /** A message that wants no answer. Nothing happens while the connection is lost. */
  send(message) {
    this.#transmit(JSON.stringify(message));
  }

  /** A message and its answer. Raises RefusedError; one that nobody awaits goes by in silence. */
  request(message) {
    return this.#ask(message, (text, refuse) => {
      if (!this.#transmit(text)) refuse(lost());
    }, ANSWER_MS);
  }

  /**
   * Sound for the person to speak, mono: Int16Array, Float32Array in [-1, 1] or a buffer of 16-bit samples. rate: Hz, that
   * of the hello when 0. last: the utterance is complete. Returns its number. Throws RefusedError `audio_buffer_full`
   * when minutes of sound wait here already.
   */
  pushAudio(sound, { rate = 0, last = false } = {}) {
    const bytes = toBytes(sound);
    const ms_per_byte = 500 / (rate || this.#settings().input.sample_rate);
    if (!this.#outbox.hasRoom(bytes.length * ms_per_byte)) {
      throw new RefusedError("audio_buffer_full", "Too much sound waits already; push the rest later.", true);
    }
    if (this.#late(this.welcome.input.live)) {
      this.skipped_ms += bytes.length * ms_per_byte;
    } else {
      for (const part of split(bytes)) {
        this.#outbox.put(pack(KIND.voice, part, this.#spoken({ value: rate })), this.#utter(), part.length * ms_per_byte);
      }
    }
    const utterance = this.#utter();
    if (last) this.flush();
    return utterance;
  }

  /** The utterance is complete; sound that is pushed from now on belongs to the next one. */
  flush() {
    if (!this.#open_utterance) return;
    const header = this.#spoken({ flags: LAST_PART });
    this.#open_utterance = 0;
    this.#outbox.put(pack(KIND.voice, new Uint8Array(0), header), header.utterance);
  }

  /** The other party's voice, as it is heard. What the network cannot carry at once is skipped. */
  pushListeningAudio(sound, { rate = 0 } = {}) {
    if (this.#late(true)) return;
    for (const part of split(toBytes(sound))) this.#transmit(pack(KIND.listening, part, { value: rate }));
  }

  /** Fall silent at once; gives `interrupted`. Drop at this call what you have queued: nothing older comes after it. */
  interrupt() {
    this.#forget();
    const answer = this.request({ type: "interrupt" });
    this.#cutting += 1;
    const over = () => { this.#cutting -= 1; };
    answer.then(over, over);
    return answer;
  }

  /** Speak a text as a whole utterance; gives `utterance.opened`. */
  speak(text, voice) {
    this.flush();
    const utterance = ++this.#highest;
    return this.#ask({ type: "speak", text, voice, utterance }, (data, refuse) => {
      this.#outbox.put(data, utterance, 0, () => refuse(lost()));
    });
  }

  /** "speaking", "listening", "idle" or "auto". when: {delay_ms} or {at_ms}, a moment of the utterance. */
  setState(state, when = {}) {
    return this.#cue({ type: "state.set", state, ...when });
  }

  /** what: a name, null to let go of all, or strengths by name. how: {strength, fade_ms, delay_ms, at_ms}. */
  setExpression(what, how = {}) {
    const chosen = what && typeof what === "object" ? { vector: what } : { name: what };
    return this.#cue({ type: "expression.set", ...chosen, ...how });
  }

  /** angles: degrees by axis, null to let go. how: {fade_ms, delay_ms, at_ms}. */
  setPose(angles, how = {}) {
    return this.#cue({ type: "pose.set", angles, ...how });
  }

  /** All pictures up to this one were shown or dropped. played_us: the moment that a sound device plays now. */
  ack(sequence, played_us) {
    this.send({ type: "ack", sequence, played_us });
  }

  // The way out.

  #transmit(data) {
    if (!this.#isLive()) return false;
    this.#socket.send(data);
    return true;
  }

  /** An answer that is not there within answer_ms is an error; 0: the message may wait for its turn. */
  #ask(message, transmit, answer_ms = 0) {
    const id = ++this.#ids;
    const answer = new Promise((answer, refuse) => {
      const late = () => this.#answer({ type: "error", id, ...timeout(message.type) });
      const timer = answer_ms ? setTimeout(late, answer_ms) : null;
      this.#asked.set(id, { answer, refuse, timer });
      transmit(JSON.stringify({ ...message, id }), (error) => this.#answer({ ...plain(error), type: "error", id }));
    });
    answer.catch(() => {});
    return answer;
  }

  /** A cue for a moment of an utterance keeps its place among the sound; the others overtake it. */
  #cue(message) {
    if (message.at_ms === undefined) return this.request(message);
    const utterance = this.#utter();
    return this.#ask({ ...message, utterance }, (data, refuse) => {
      this.#outbox.put(data, utterance, 0, () => refuse(lost()));
    });
  }

  #settings() {
    if (!this.welcome || this.#closed) throw new RefusedError("closed", "There is no session; connect first.");
    return this.welcome;
  }

  #utter() {
    return (this.#open_utterance ||= ++this.#highest);
  }

  #spoken(header) {
    return { ...header, utterance: this.#utter() };
  }

  #isLive() {
    return Boolean(this.#begun?.done && !this.#begun.over && this.#socket.readyState === WebSocket.OPEN);
  }

  #late(live) {
    return live && (this.#socket?.bufferedAmount ?? 0) > LIVE_BACKLOG_BYTES;
  }

  #forget() {
    this.#outbox.clear();
    this.#open_utterance = 0;
  }

  // The connection.

  #open(hello) {
    const { url, token } = this.#options;
    const protocols = ["visavis.v1", ...(token ? [`token.${base64url(token)}`] : [])];
    return new Promise((answer, refuse) => {
      const socket = new WebSocket(url, protocols);
      socket.binaryType = "arraybuffer";
      const begun = { socket, answer, refuse, opened: false, done: false, over: false, fatal: null };
      this.#socket = socket;
      this.#begun = begun;
      begun.timer = setTimeout(() => this.#ended({ code: 4900, reason: "timeout" }, begun), WELCOME_MS);
      socket.onopen = () => {
        begun.opened = true;
        socket.send(JSON.stringify({ type: "hello", protocol: PROTOCOL, ...hello }));
      };
      socket.onmessage = ({ data }) => this.#receive(data, begun);
      socket.onerror = () => {};
      socket.onclose = (event) => this.#ended(event, begun);
    });
  }

  #receive(data, begun) {
    if (begun.socket !== this.#socket) return;
    this.#heard_ms = performance.now();
    if (typeof data !== "string") return this.#receiveMedia(unpack(data), begun.socket);
    const message = JSON.parse(data);
    if (message.event <= this.#after) return;
    this.#after = message.event ?? this.#after;
    if (message.type === "welcome") this.#begin(message, begun);
    if (message.type === "portrait.wanted") this.#upload(begun.socket, message);
    if (message.type === "error" && message.fatal) begun.fatal = message;
    this.#follow(message);
    this.#answer(message);
    this.onmessage(message);
  }

  /** What messages say about utterances, epochs and room for sound. */
  #follow(message) {
    if (message.type === "interrupted") this.epoch = message.epoch;
    if (message.type === "utterance.opened") this.#highest = Math.max(this.#highest, message.utterance);
    if (message.type === "audio.buffer") this.#outbox.pause(message.paused);
    if (message.type !== "playback.finished") return;
    if (this.#open_utterance === message.utterance) this.#open_utterance = 0;
    this.#outbox.finished(message.utterance);
  }

  #receiveMedia(message, socket) {
    if (message?.kind !== KIND.video && message?.kind !== KIND.audio) return;
    if (message.utterance) this.#outbox.heard(message.utterance, message.value / 16);
    const fresh = message.epoch === (this.epoch & 0xffff);
    const unwanted = !fresh || (this.#cutting && message.utterance);
    if (message.kind === KIND.audio) return unwanted || this.onaudio(message);
    const shown = fresh || message.config ? this.onvideo(message) : null;
    if (!this.#options.acknowledge || !this.welcome.video.window) return undefined;
    const done = () => socket === this.#socket && this.ack(message.sequence);
    return shown?.then ? shown.then(done, done) : done();
  }

  #begin(welcome, begun) {
    this.welcome = welcome;
    this.epoch = welcome.epoch;
    this.#resume = this.#options.resume ? welcome.resume : null;
    this.#outbox.high_ms = welcome.input.high_ms;
    clearTimeout(begun.timer);
    begun.done = true;
    begun.answer(welcome);
    this.#watch ??= setInterval(() => this.#watchSilence(), 1000);
    this.#state("live");
  }

  #answer(message) {
    const asked = this.#asked.get(message.id);
    if (!asked) return;
    this.#asked.delete(message.id);
    clearTimeout(asked.timer);
    if (message.type === "error") asked.refuse(new RefusedError(message.code, message.message, message.retryable));
    else asked.answer(message);
  }

  async #upload(socket, { bytes, chunk_bytes }) {
    const picture = new Uint8Array(await this.#options.upload.arrayBuffer());
    for (let at = 0; at < bytes; at += chunk_bytes) {
      const flags = at + chunk_bytes >= bytes ? LAST_PART : 0;
      socket.send(pack(KIND.portrait, picture.subarray(at, at + chunk_bytes), { value: at, flags }));
    }
  }

  /** Once for each connection: it was closed, or is given up. */
  #ended({ code, reason }, begun) {
    if (begun.over) return;
    begun.over = true;
    clearTimeout(begun.timer);
    begun.socket.close();
    const error = whyEnded(code, reason, begun);
    if (!begun.done) return begun.refuse(error);
    this.#forget();
    for (const id of [...this.#asked.keys()]) this.#answer({ ...plain(lost()), type: "error", id });
    if (this.#closing || begun.fatal || FINAL_CLOSES.has(code) || !this.#resume) this.#finish(this.#closing ? null : error);
    else this.#comeBack(error);
  }

  #finish(error) {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#watch);
    this.#state("closed", error);
  }

  async #comeBack(error) {
    this.#state("lost", error);
    const until_ms = performance.now() + this.welcome.grace_s * 1000;
    for (let wait_ms = FIRST_RETRY_MS; performance.now() < until_ms && !this.#closing; wait_ms *= 2) {
      await pause(Math.min(wait_ms, LONGEST_RETRY_MS));
      if (this.#closing) return;
      this.#state("resuming", error);
      try {
        await this.#open({ resume: this.#resume, after: this.#after });
        return;
      } catch (refusal) {
        if (FINAL_CLOSES.has(refusal.close)) return this.#finish(refusal);
      }
    }
    this.#finish(this.#closing ? null : error);
  }

  /** A socket whose peer is gone would not close for a long time. */
  #watchSilence() {
    const silent = performance.now() - this.#heard_ms > SILENT_MS;
    if (silent && this.#isLive()) this.#ended({ code: 1006, reason: "silent" }, this.#begun);
  }

  #state(state, error = null) {
    this.onstate(state, error);
  }
}

// Plain functions.

function endpoint(url) {
  const place = new URL(url, globalThis.location?.href);
  place.protocol = place.protocol.replace("http", "ws");
  if (place.pathname === "/") place.pathname = PATH;
  return place.href;
}

async function get(url, path, token) {
  const address = new URL(path, new URL("../", url.replace(/^ws/, "http")));
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(address, { headers });
  } catch {
    throw new RefusedError("unreachable", `No answer from ${address.host}. Is visavis serve running there?`, true);
  }
  if (response.ok) return response;
  const { error = {} } = await response.json().catch(() => ({}));
  throw new RefusedError(error.code ?? "refused", error.message ?? `HTTP ${response.status}`, error.retryable);
}

function whyEnded(code, reason, { fatal, opened }) {
  const error = fatal
    ? new RefusedError(fatal.code, fatal.message, fatal.retryable)
    : opened
      ? new RefusedError(reason || "lost", "The connection was lost.", true)
      : new RefusedError("unreachable", "The server did not take the connection.", true);
  error.close = code;
  return error;
}

function lost() {
  return new RefusedError("lost", "The connection is lost.", true);
}

function timeout(what) {
  return { code: "timeout", message: `The server did not answer ${what} in time.`, retryable: true };
}

function plain({ code, message, retryable }) {
  return { code, message, retryable };
}

function split(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += VOICE_BYTES) parts.push(bytes.subarray(at, at + VOICE_BYTES));
  return parts;
}

function without(object, name) {
  const { [name]: _, ...rest } = object;
  return rest;
}

function given(object) {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function pause(ms) {
  return new Promise((done) => setTimeout(done, ms));
}
