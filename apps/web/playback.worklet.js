/**
 * Plays sound at its place on the media clock, sample by sample.
 *
 * In: {offset} frames of the device minus samples of the stream, {start, samples} sound from that sample of the
 * stream on, {drop: n} fall silent for the n-th time. Out, each 32 ms or so: {queued, missed, audible, drops}, see
 * `Sound`.
 */

const FADE_SAMPLES = 80;
const LONGEST_QUEUE_SAMPLES = 16_000 * 5;
const REPORT_BLOCKS = 4;
const AUDIBLE = 0.002;

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.offset = null;
    this.chunks = [];
    this.queued = 0;
    this.missed = 0;
    this.drops = 0;
    this.lastAudible = 0;
    this.blocks = 0;
    this.next = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take(message) {
    if (message.drop) this.drop(message.drop);
    if (message.offset !== undefined) this.offset = message.offset;
    if (!message.samples) return;
    this.chunks.push(message);
    this.queued += message.samples.length;
    while (this.queued > LONGEST_QUEUE_SAMPLES) this.queued -= this.chunks.shift().samples.length;
  }

  /** A cut in the middle of a wave clicks; what would have come in the next 5 ms fades instead. */
  drop(number) {
    this.drops = number;
    const from = this.next - (this.offset ?? 0);
    const tail = new Float32Array(FADE_SAMPLES);
    this.mix(from, tail);
    for (let i = 0; i < FADE_SAMPLES; i++) tail[i] *= 1 - i / FADE_SAMPLES;
    this.chunks = [{ start: from, samples: tail }];
    this.queued = FADE_SAMPLES;
  }

  mix(from, out) {
    for (const { start, samples } of this.chunks) {
      const begin = Math.max(from, start);
      const end = Math.min(from + out.length, start + samples.length);
      if (begin < end) out.set(samples.subarray(begin - start, end - start), begin - from);
    }
  }

  process(_inputs, outputs) {
    const out = outputs[0][0];
    if (this.offset !== null) {
      const from = currentFrame - this.offset;
      this.forget(from);
      this.mix(from, out);
      if (out.some((value) => Math.abs(value) > AUDIBLE)) this.lastAudible = currentFrame + out.length;
    }
    for (let channel = 1; channel < outputs[0].length; channel++) outputs[0][channel].set(out);
    this.next = currentFrame + out.length;
    if (++this.blocks % REPORT_BLOCKS === 0) this.report();
    return true;
  }

  forget(from) {
    while (this.chunks.length && this.chunks[0].start + this.chunks[0].samples.length <= from) {
      const { samples, played } = this.chunks.shift();
      this.queued -= samples.length;
      if (!played) this.missed += samples.length;
    }
    for (const chunk of this.chunks) chunk.played ||= chunk.start <= from + 128;
  }

  report() {
    const audible = this.lastAudible / sampleRate;
    this.port.postMessage({ queued: this.queued, missed: this.missed, audible, drops: this.drops });
  }
}

registerProcessor("playback", Playback);
