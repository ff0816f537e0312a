/**
 * Cuts an open microphone into utterances at its pauses, so that silence is not sent as speech and delay cannot add up.
 */

const PREROLL_PIECES = 10;
const PAUSE_PIECES = 40;
/** Louder than the room by so much, on the microphone's scale from 0 to 1, is a voice. */
const ABOVE_ROOM = 0.17;
const LEAST_LEVEL = 0.22;
const ROOM_RISES = 0.002;

export class Spurts {
  #to;
  #before = [];
  #quiet = 0;
  #speaking = false;
  #room = 1;

  /** to: {sound(samples, rate_hz), end()}. */
  constructor(to) {
    this.#to = to;
  }

  /** A piece of 20 ms. always: the user says when they talk, so nothing is held back. */
  take(samples, rate_hz, level, always) {
    this.#room = Math.min(level, this.#room + ROOM_RISES);
    const voice = always || level > Math.max(LEAST_LEVEL, this.#room + ABOVE_ROOM);
    this.#quiet = voice ? 0 : this.#quiet + 1;
    if (!this.#speaking && !voice) return this.#keep(samples);
    if (!this.#speaking) this.#begin(rate_hz);
    this.#to.sound(samples, rate_hz);
    if (this.#quiet >= PAUSE_PIECES) this.end();
  }

  end() {
    this.#before = [];
    this.#quiet = 0;
    if (!this.#speaking) return;
    this.#speaking = false;
    this.#to.end();
  }

  #keep(samples) {
    this.#before.push(samples);
    if (this.#before.length > PREROLL_PIECES) this.#before.shift();
  }

  #begin(rate_hz) {
    this.#speaking = true;
    for (const samples of this.#before) this.#to.sound(samples, rate_hz);
    this.#before = [];
  }
}
