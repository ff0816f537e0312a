/**
 * Sound on its way to the server, in order, with no more under way than the server wants (docs/protocol.md, "Flow
 * control"). The server's own word, `audio.buffer`, comes a round trip late, so what it holds is also reckoned here: what
 * was sent less what was heard. Cues for a moment of an utterance keep their place among its sound.
 */

/** Sound that may wait here, in ms. */
const MOST_WAITING_MS = 240_000;

export class Outbox {
  #send;
  #waiting = [];
  #waiting_ms = 0;
  /** Sound sent and heard by utterance, {sent_ms, heard_ms}. */
  #under_way = new Map();
  #paused = false;

  /** send: function of one message; returns false while there is no connection. high_ms: what the server may hold. */
  constructor(send) {
    this.#send = send;
    this.high_ms = 0;
  }

  /** Whether so much more sound may be put in. */
  hasRoom(ms) {
    return this.#waiting_ms + ms <= MOST_WAITING_MS;
  }

  /** Sound that waits here, in ms. */
  get waiting_ms() {
    return this.#waiting_ms;
  }

  /** A message of an utterance, with the duration of its sound. drop: called if it will never be sent. */
  put(data, utterance, ms = 0, drop = () => {}) {
    this.#waiting.push({ data, utterance, ms, drop });
    this.#waiting_ms += ms;
    this.drain();
  }

  /** A frame of the utterance came: so much of it was heard. */
  heard(utterance, ms) {
    const one = this.#under_way.get(utterance);
    if (one) one.heard_ms = Math.max(one.heard_ms, ms);
    this.drain();
  }

  /** The server's word. */
  pause(paused) {
    this.#paused = paused;
    this.drain();
  }

  /** The utterance is over; sound of it that still waits would be dropped by the server without a word. */
  finished(utterance) {
    this.#under_way.delete(utterance);
    this.#drop((item) => item.utterance === utterance && item.ms > 0);
    this.drain();
  }

  /** Nothing of this will be heard: an interrupt, or a lost connection. */
  clear() {
    this.#under_way.clear();
    this.#paused = false;
    this.#drop(() => true);
  }

  drain() {
    while (this.#waiting.length && !this.#paused && this.#ahead_ms() <= this.high_ms) {
      const { data, utterance, ms } = this.#waiting[0];
      if (!this.#send(data)) return;
      this.#waiting.shift();
      this.#waiting_ms -= ms;
      if (ms) this.#sent(utterance, ms);
    }
  }

  #sent(utterance, ms) {
    const one = this.#under_way.get(utterance) ?? { sent_ms: 0, heard_ms: 0 };
    one.sent_ms += ms;
    this.#under_way.set(utterance, one);
  }

  #ahead_ms() {
    let ahead_ms = 0;
    for (const { sent_ms, heard_ms } of this.#under_way.values()) ahead_ms += Math.max(0, sent_ms - heard_ms);
    return ahead_ms;
  }

  #drop(which) {
    const gone = this.#waiting.filter(which);
    this.#waiting = this.#waiting.filter((item) => !which(item));
    this.#waiting_ms = this.#waiting.reduce((sum, item) => sum + item.ms, 0);
    for (const item of gone) item.drop();
  }
}
