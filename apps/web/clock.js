/**
 * Which moment of the stream is seen and heard now.
 *
 * The sound device leads, since the ear hears a repair and the eye does not. The server sends a frame when it is due; it
 * is presented `lead` later, which is what the network, the decoder and the device may take. What comes later than that
 * moves the clock back; what comes early for long moves it forward, but only in silence. After an interrupt the face
 * goes ahead without that reserve, and a clock that is a little slow earns it back.
 */

const BUFFER_MS = 70;
const LEAST_MS = 8;
const SPARE_MS = 45;
const WINDOW_MS = 3000;
/** Pictures 43 ms apart instead of 40 look the same. */
const SLOW_RATE = 0.93;

export class MediaClock {
  #sound;
  #anchor = null;
  #least = { ms: Infinity, since_ms: 0 };
  #hasty = false;
  /** How often, and by how much in all, what came too late moved the clock. */
  slips = 0;
  slipped_ms = 0;

  constructor(sound) {
    this.#sound = sound;
  }

  /** Forget the stream; the next arrival starts the clock anew. */
  reset() {
    this.#anchor = null;
    this.#hasty = false;
  }

  /** The next picture is wanted at once; there is no sound to keep together with. */
  hasten() {
    this.#hasty = true;
  }

  /** The moment of the stream, in µs, that is presented at `now_ms` of the page's clock; null before there is one. */
  at(now_ms) {
    if (!this.#anchor) return null;
    if (this.#sound.running !== this.#anchor.led) this.#moveDevice(now_ms);
    const { pts_us, rate, device_ms } = this.#anchor;
    return pts_us + (this.#sound.device_ms(now_ms) - device_ms) * 1000 * rate;
  }

  /** Something of the stream has come. `audible`: it is sound, or sound is playing, which is not to be moved about. */
  arrived(pts_us, now_ms, audible) {
    if (!this.#anchor) return this.#set(pts_us - this.#wanted_ms * 1000, now_ms);
    if (this.#hasty && !audible) return this.#hurry(pts_us, now_ms);
    const lead_ms = (pts_us - this.at(now_ms)) / 1000;
    if (this.#anchor.rate < 1 && !audible) return this.#earn(lead_ms, now_ms);
    if (lead_ms < this.#sound.latency_ms + LEAST_MS) return this.#late(pts_us, now_ms, lead_ms);
    this.#gather(lead_ms, now_ms, audible);
  }

  get #wanted_ms() {
    return this.#sound.latency_ms + BUFFER_MS;
  }

  #hurry(pts_us, now_ms) {
    this.#hasty = false;
    this.#set(pts_us, now_ms, SLOW_RATE);
  }

  #earn(lead_ms, now_ms) {
    if (lead_ms >= this.#wanted_ms) this.#set(this.at(now_ms), now_ms);
    else if (lead_ms < -LEAST_MS) this.#set(this.at(now_ms) + lead_ms * 1000, now_ms, SLOW_RATE);
  }

  #late(pts_us, now_ms, lead_ms) {
    this.slips += 1;
    this.slipped_ms += this.#wanted_ms - lead_ms;
    this.#set(pts_us - this.#wanted_ms * 1000, now_ms);
  }

  /** In silence, give back what no arrival of the last seconds has needed. */
  #gather(lead_ms, now_ms, audible) {
    this.#hasty = false;
    this.#least.ms = Math.min(this.#least.ms, lead_ms);
    if (audible || now_ms - this.#least.since_ms < WINDOW_MS) return;
    const spare_ms = this.#least.ms - this.#wanted_ms;
    this.#least = { ms: Infinity, since_ms: now_ms };
    if (spare_ms > SPARE_MS) this.#set(this.at(now_ms) + spare_ms * 1000, now_ms);
  }

  /** The sound device has begun or ceased to run, and its clock with it. */
  #moveDevice(now_ms) {
    this.#set(this.#anchor.pts_us + (now_ms - this.#anchor.now_ms) * 1000 * this.#anchor.rate, now_ms);
  }

  #set(pts_us, now_ms, rate = 1) {
    const device_ms = this.#sound.device_ms(now_ms);
    this.#anchor = { pts_us, device_ms, now_ms, rate, led: this.#sound.running };
    this.#least = { ms: Infinity, since_ms: now_ms };
    this.#sound.place(pts_us, device_ms);
  }
}
