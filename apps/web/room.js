/** One conversation: the connection, the player and the figures, with phases that the page shows. */

import { Avatar } from "./visavis.js";
import { Figures } from "./figures.js";
import { codecs } from "./pictures.js";
import { Player } from "./player.js";

/** Recommended by the protocol. */
const WINDOW_FRAMES = 8;

/**
 * Events: `phase` {phase, error} with off, connecting, live, resuming, refused or lost; `doing` {doing}, what the person
 * is seen to do; `shown`, what `Screen` tells of a picture; `message`, each control message of the server; `asked`
 * {utterance, text}.
 */
export class Room extends EventTarget {
  figures = new Figures();
  avatar = null;
  player;
  phase = "off";
  doing = null;
  /** The server's newest `metrics`. */
  metrics = null;
  #attempt = null;

  constructor(canvas) {
    super();
    this.player = new Player(canvas);
    this.player.onshown = (shown) => this.#shown(shown);
    this.player.oncut = (cut) => { this.figures.cut = cut; };
  }

  get live() {
    return this.phase === "live";
  }

  /** portrait: a library name, a Blob or null. codec: "auto" is the best that this browser can show. */
  async join({ url, token, portrait, codec = "auto" }) {
    await this.#part();
    const attempt = {};
    this.#attempt = attempt;
    this.#enter("connecting");
    this.figures.begin();
    await this.player.sound.open().catch((error) => console.warn("no sound:", error.message));
    const chosen = codec === "auto" ? (await codecs()).usable[0] : codec;
    if (this.#attempt !== attempt) return;
    const hello = { client: "visavis-page", video: { codec: chosen, window: WINDOW_FRAMES } };
    if (typeof portrait === "string") hello.portrait = { library: portrait };
    const avatar = new Avatar({ url, token, hello, upload: portrait instanceof Blob ? portrait : null });
    this.avatar = avatar;
    avatar.onvideo = (message) => this.player.video(message);
    avatar.onaudio = (message) => this.player.audio(message);
    avatar.onmessage = (message) => this.#heard(message);
    avatar.onstate = (state, error) => this.avatar === avatar && this.#changed(state, error);
    try {
      await avatar.connect();
    } catch (error) {
      if (this.avatar === avatar) this.#enter("refused", error);
    }
  }

  async leave() {
    await this.#part();
    this.#enter("off");
  }

  /** Silence at once: the page drops what it holds, then the server what it holds. */
  async interrupt() {
    if (!this.live) return;
    this.player.hush();
    await this.avatar.interrupt().catch((error) => console.warn("interrupt:", error.message));
    this.player.resume();
  }

  /** Raises RefusedError. */
  async say(text) {
    const asked_ms = performance.now();
    const { utterance } = await this.avatar.speak(text);
    this.figures.asked(asked_ms);
    this.#tell("asked", { utterance, text });
  }

  /** Int16Array for the person to speak. Gives the number of the utterance; raises RefusedError. */
  voice(samples, rate_hz) {
    if (!this.avatar.utterance) this.figures.asked();
    return this.avatar.pushAudio(samples, { rate: rate_hz });
  }

  async #part() {
    const avatar = this.avatar;
    this.avatar = this.#attempt = this.metrics = null;
    this.player.end();
    this.#do(null);
    if (avatar) await avatar.close();
  }

  #changed(state, error) {
    if (state === "live") {
      this.player.begin(this.avatar);
      this.#enter("live");
    } else if (state !== "connecting") {
      this.player.end();
      this.#enter(state === "closed" ? "lost" : "resuming", error);
    }
  }

  #heard(message) {
    if (message.type === "metrics") this.metrics = message;
    this.#tell("message", message);
  }

  #shown(shown) {
    this.figures.drawn(shown, this.player.queued_ms);
    this.#do(shown.message.state);
    this.#tell("shown", shown);
  }

  #do(doing) {
    if (doing === this.doing) return;
    this.doing = doing;
    this.#tell("doing", { doing });
  }

  #enter(phase, error = null) {
    this.phase = phase;
    this.#tell("phase", { phase, error });
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
