/** Sound and pictures of one session, together: from messages of the wire to loudspeaker and canvas. */

import { MediaClock } from "./clock.js";
import { decoder } from "./pictures.js";
import { Screen } from "./screen.js";
import { floats, Sound } from "./sound.js";
import { samplesOf } from "./visavis.js";

/** How long to wait for the server's answer to an interrupt before its media are taken again. */
const LONGEST_HUSH_MS = 1000;
/** After a cut, how long to look for what is still heard or seen of it. */
const AFTERMATH_MS = 400;
/** A key frame is asked for at most so often. */
const KEYFRAME_EVERY_MS = 500;

export class Player {
  sound = new Sound();
  clock = new MediaClock(this.sound);
  screen;
  #decoder = null;
  #avatar = null;
  #asked_ms = 0;
  #hushed = false;
  #cut = null;
  /** onshown(shown): see `Screen`. */
  onshown = () => {};
  /** oncut({sound_ms, picture_ms}): from `hush` to the last sound of what was cut, and to the first fresh picture. */
  oncut = () => {};

  constructor(canvas) {
    this.screen = new Screen(canvas, this.clock);
    this.screen.onshown = (shown) => this.#shown(shown);
  }

  /** Begin with what its `welcome` says. `avatar` is told what was decoded, and asked for key frames. */
  begin(avatar) {
    this.end();
    this.#avatar = avatar;
    const { video } = avatar.welcome;
    if (!video) return;
    this.#decoder = decoder(video, (picture) => this.#decoded(picture), () => this.#starved());
  }

  end() {
    this.#decoder?.close();
    this.#decoder = this.#cut = null;
    this.#hushed = false;
    this.sound.drop();
    this.screen.reset();
    this.clock.reset();
  }

  get queued_ms() {
    return Math.max(this.sound.queued_ms, this.screen.waiting * 40);
  }

  video(message) {
    if (message.config || !message.payload.length) return;
    if (!this.#hushed) this.clock.arrived(message.pts_us, performance.now(), this.sound.report.queued > 0);
    this.#decoder?.push(message);
  }

  audio(message) {
    // Of no utterance, after a cut: the server's fade of what is no longer heard here. It is not waited for.
    if (this.#hushed || (this.#cut && !message.utterance)) return;
    this.clock.arrived(message.pts_us, performance.now(), true);
    this.sound.push(message.pts_us, floats(samplesOf(message)));
  }

  /** Silence now: what waits here is dropped, and what the server still sends of it, until `resume`. */
  hush() {
    const now_ms = performance.now();
    this.sound.drop();
    this.screen.drop();
    this.#hushed = true;
    const cut = { since_ms: now_ms, picture_ms: null };
    this.#cut = cut;
    setTimeout(() => this.#cut === cut && this.resume(), LONGEST_HUSH_MS);
  }

  /** The server has answered: what comes from now on is new. */
  resume() {
    if (!this.#hushed) return;
    this.#hushed = false;
    this.clock.hasten();
    setTimeout((cut) => this.#tell(cut), AFTERMATH_MS, this.#cut);
  }

  /** Pictures are decoded even while hushed, since later ones are built on them. */
  #decoded(picture) {
    this.#avatar.ack(picture.message.sequence);
    if (this.#hushed) picture.image.close?.();
    else this.screen.push(picture);
  }

  #starved() {
    const now_ms = performance.now();
    if (now_ms - this.#asked_ms < KEYFRAME_EVERY_MS) return;
    this.#asked_ms = now_ms;
    this.#avatar.send({ type: "keyframe" });
  }

  #shown(shown) {
    if (this.#cut && !this.#hushed) this.#cut.picture_ms ??= shown.at_ms - this.#cut.since_ms;
    this.onshown(shown);
  }

  #tell(cut) {
    if (cut !== this.#cut) return;
    this.#cut = null;
    this.oncut({ sound_ms: Math.max(0, this.sound.audible_ms - cut.since_ms), picture_ms: cut.picture_ms });
  }
}
