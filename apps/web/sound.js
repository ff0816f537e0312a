/** The loudspeaker: plays the person's voice, and knows which moment of the stream is heard at any time. */

export const RATE_HZ = 16_000;

/** A device's own clock is read in steps; its distance to the page's clock is smoothed over about this many readings. */
const SMOOTHING = 40;
const JUMP_MS = 60;

export class Sound {
  #context = null;
  #node = null;
  #distance_ms = null;
  #offset_us = null;
  #drops = 0;
  /** What the worklet last said: samples that wait, samples that came too late, when something was last audible. */
  report = { queued: 0, missed: 0, audible: 0 };

  /** Opens the device. Without a gesture of the user it may stay silent; `resume` then wakes it. */
  async open() {
    if (this.#context) return this.resume();
    if (!globalThis.AudioContext || !AudioWorkletNode) throw new Error("This browser has no AudioWorklet.");
    const context = new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("playback.worklet.js", import.meta.url));
    const node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => this.#reported(data);
    node.connect(context.destination);
    this.#context = context;
    this.#node = node;
    await this.resume();
  }

  /** Browsers leave the promise open until the user has touched the page, so nobody waits for it long. */
  async resume() {
    const woken = this.#context?.resume();
    await Promise.race([woken, new Promise((done) => setTimeout(done, 300))]);
  }

  get running() {
    return this.#context?.state === "running";
  }

  /** From handing a sample over to hearing it. */
  get latency_ms() {
    return 1000 * ((this.#context?.outputLatency || 0) + (this.#context?.baseLatency || 0));
  }

  get queued_ms() {
    return (1000 * this.report.queued) / RATE_HZ;
  }

  get missed_ms() {
    return (1000 * this.report.missed) / RATE_HZ;
  }

  /** When something was last heard, as `performance.now()` counts. */
  get audible_ms() {
    return this.report.audible * 1000 + (this.#distance_ms ?? 0);
  }

  /** The device's clock in ms at a moment of the page's clock: what is heard then, counted from its start. */
  device_ms(now_ms) {
    if (!this.running) return now_ms;
    const stamp = this.#context.getOutputTimestamp?.();
    const heard_s = stamp?.performanceTime ? stamp.contextTime : this.#context.currentTime - this.latency_ms / 1000;
    const distance_ms = (stamp?.performanceTime || performance.now()) - heard_s * 1000;
    const known = this.#distance_ms;
    const jumped = known === null || Math.abs(distance_ms - known) > JUMP_MS;
    this.#distance_ms = jumped ? distance_ms : known + (distance_ms - known) / SMOOTHING;
    return now_ms - this.#distance_ms;
  }

  /** Moment `pts_us` of the stream is heard when the device's clock shows `device_ms`. */
  place(pts_us, device_ms) {
    this.#offset_us = device_ms * 1000 - pts_us;
    const offset = Math.round((this.#offset_us * RATE_HZ) / 1e6);
    this.#node?.port.postMessage({ offset });
  }

  push(pts_us, samples) {
    const start = Math.round((pts_us * RATE_HZ) / 1e6);
    this.#node?.port.postMessage({ start, samples }, [samples.buffer]);
  }

  /** Nothing waits from now on, though the device's thread may hear of it a moment later. */
  drop() {
    this.#drops += 1;
    this.#node?.port.postMessage({ drop: this.#drops });
    this.report = { ...this.report, queued: 0 };
  }

  #reported(report) {
    this.report = report.drops < this.#drops ? { ...report, queued: 0 } : report;
  }
}

/** Float samples of 16-bit ones. */
export function floats(pcm) {
  return Float32Array.from(pcm, (value) => value / 32768);
}
