/** What this page measures, on its own clock: rolling figures of the last minute, and bins for the graph. */

const WINDOW_MS = 60_000;
const BIN_MS = 250;
export const BINS = WINDOW_MS / BIN_MS;

/** Values of the last minute. */
class Rolling {
  #values = [];

  add(at_ms, value) {
    this.#values.push([at_ms, value]);
    while (this.#values[0][0] < at_ms - WINDOW_MS) this.#values.shift();
  }

  clear() {
    this.#values = [];
  }

  /** {mean, p50, p95, most, count} of the values, or of what `of` makes of them; null without any. */
  summary(of = (value) => value) {
    const sorted = this.#values.map(([, value]) => of(value)).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const mean = round(sorted.reduce((sum, value) => sum + value, 0) / sorted.length);
    return { mean, p50: rank(sorted, 0.5), p95: rank(sorted, 0.95), most: round(sorted.at(-1)), count: sorted.length };
  }
}

/** The value below which a share of the sorted ones lies, by nearest rank. */
function rank(sorted, share) {
  return round(sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]);
}

export function round(value) {
  return Math.round(value * 10) / 10;
}

export class Figures {
  #interval = new Rolling();
  #skew = new Rolling();
  #queue = new Rolling();
  #answer = new Rolling();
  #bins = [];
  #begun_ms = null;
  #asked_ms = null;
  #utterance = 0;
  first_picture_ms = null;
  last_answer_ms = null;
  cut = null;
  shown = 0;

  /** A connection is being opened. */
  begin() {
    for (const rolling of [this.#interval, this.#skew, this.#queue, this.#answer]) rolling.clear();
    this.#bins = [];
    this.#begun_ms = performance.now();
    this.#asked_ms = this.first_picture_ms = this.last_answer_ms = this.cut = null;
    this.#utterance = this.shown = 0;
  }

  /** Since when an answer is wanted: when the first sound, or the text, of an utterance went out. */
  asked(at_ms = performance.now()) {
    this.#asked_ms ??= at_ms;
  }

  /** What `Screen.onshown` gives, and how many ms of media wait. */
  drawn({ message, at_ms, interval_ms, skew_ms }, queued_ms) {
    this.shown += 1;
    this.first_picture_ms ??= round(at_ms - this.#begun_ms);
    if (interval_ms !== null) this.#interval.add(at_ms, interval_ms);
    // Without sound there is nothing to be apart from.
    if (message.utterance) this.#skew.add(at_ms, skew_ms);
    this.#queue.add(at_ms, queued_ms);
    const bin = this.#bin(at_ms);
    bin.interval = Math.max(bin.interval ?? 0, interval_ms ?? 0);
    bin.queue = queued_ms;
    if (message.utterance && Math.abs(skew_ms) >= Math.abs(bin.skew ?? 0)) bin.skew = skew_ms;
    if (message.utterance > this.#utterance) this.#answered(message.utterance, at_ms, bin);
  }

  #answered(utterance, at_ms, bin) {
    this.#utterance = utterance;
    if (this.#asked_ms === null) return;
    this.last_answer_ms = bin.answer = round(at_ms - this.#asked_ms);
    this.#answer.add(at_ms, this.last_answer_ms);
    this.#asked_ms = null;
  }

  #bin(at_ms) {
    const number = Math.floor(at_ms / BIN_MS);
    if (this.#bins.at(-1)?.number !== number) this.#bins.push({ number });
    while (this.#bins[0].number <= number - BINS) this.#bins.shift();
    return this.#bins.at(-1);
  }

  /** [{age: bins before now, interval, queue, skew, answer}], in ms, fields only where known. */
  bins(now_ms = performance.now()) {
    const newest = Math.floor(now_ms / BIN_MS);
    return this.#bins.map((bin) => ({ ...bin, age: newest - bin.number }));
  }

  /** Everything as plain data; skew is the distance of picture and sound, whichever is ahead. */
  snapshot() {
    return {
      first_picture_ms: this.first_picture_ms,
      answer_ms: this.#answer.summary(),
      frame_interval_ms: this.#interval.summary(),
      queue_ms: this.#queue.summary(),
      av_skew_ms: this.#skew.summary(Math.abs),
      av_skew_signed_ms: this.#skew.summary(),
      interrupt: this.cut,
      pictures_shown: this.shown,
    };
  }
}
