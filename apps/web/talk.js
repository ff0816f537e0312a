/** The ways to make them talk or listen: microphone, push to talk, text, sound files; and to make them stop. */

import { Microphone } from "./microphone.js";
import { Spurts } from "./spurts.js";

const FILE_RATE_HZ = 16_000;
const LONGEST_FILE_S = 235;

/** `ui`: elements by name, see main.js. `hint(text, bad)` shows a line under the controls. */
export class Talk {
  #room;
  #ui;
  #hint;
  #microphone = new Microphone();
  #spurts;
  #talking = false;

  constructor(room, ui, hint) {
    this.#room = room;
    this.#ui = ui;
    this.#hint = hint;
    this.#spurts = new Spurts({
      sound: (samples, rate_hz) => room.voice(samples, rate_hz),
      end: () => room.live && room.avatar.flush(),
    });
    this.#microphone.onpiece = (piece) => this.#heard(piece);
    this.#microphone.onlost = () => this.#fault("The microphone is gone. Plug it in again, or choose another one.");
    this.#wireMicrophone();
    this.#wireText();
    this.#wireFiles();
    ui.stop.onclick = () => this.interrupt();
    this.show();
  }

  get hold() {
    return this.#ui.hold.checked;
  }

  get talking() {
    return this.#talking;
  }

  get speaks() {
    return this.#ui.role().value === "speak";
  }

  /** Enable what can be used now. */
  show() {
    const { live } = this.#room;
    const speech = live && this.#room.avatar.welcome.speech !== null;
    const { mic, text, say, file, stop } = this.#ui;
    for (const each of [mic, file, stop]) each.disabled = !live;
    for (const each of [text, say]) each.disabled = !speech;
    text.placeholder = live && !speech ? "No text to speech here" : "Let them say…";
    // What is being brought back goes on as it was.
    if (!live && this.#room.phase !== "resuming") this.quiet();
  }

  interrupt() {
    if (!this.#room.live) return;
    this.#hint("");
    this.#room.interrupt();
  }

  /** Microphone off, or in push to talk: on while held. */
  async press() {
    if (this.hold || !this.#talking) await this.#talk();
    else this.quiet();
  }

  release() {
    if (!this.hold) return;
    this.#setTalking(false);
    this.#spurts.end();
  }

  quiet() {
    this.#setTalking(false);
    this.#spurts.end();
    this.#microphone.stop();
    this.#level(0);
  }

  async #talk() {
    if (!this.#room.live) return;
    this.#setTalking(true);
    if (this.#microphone.open) return;
    try {
      await this.#microphone.start(this.#ui.device.value);
      this.#warn("");
      await this.listDevices();
    } catch (error) {
      this.#fault(error.message);
    }
  }

  async listDevices() {
    const { device } = this.#ui;
    const known = await Microphone.devices();
    const options = known.filter(({ label }) => label).map(({ id, label }) => new Option(label, id));
    const chosen = device.value;
    device.replaceChildren(new Option("Default microphone", ""), ...options);
    if (options.some(({ value }) => value === chosen)) device.value = chosen;
  }

  #wireMicrophone() {
    const { mic, hold, device, roles } = this.#ui;
    mic.onpointerdown = (event) => {
      if (event.button !== 0 || mic.disabled) return;
      if (this.hold) mic.setPointerCapture(event.pointerId);
      this.press();
    };
    // A long touch asks for a menu.
    mic.oncontextmenu = (event) => event.preventDefault();
    mic.onpointerup = mic.onpointercancel = () => this.release();
    // A click without a pointer comes from the keyboard or a screen reader.
    mic.onclick = (event) => event.detail === 0 && (this.hold && this.#talking ? this.release() : this.press());
    hold.onchange = () => this.quiet();
    for (const role of roles) role.onchange = () => { this.#spurts.end(); this.#tellRole(); };
    device.onchange = async () => {
      if (!this.#microphone.open) return;
      this.#microphone.stop();
      await this.#talk();
    };
    navigator.mediaDevices?.addEventListener("devicechange", () => this.listDevices());
  }

  #wireText() {
    const { dock, text } = this.#ui;
    dock.onsubmit = async (event) => {
      event.preventDefault();
      const words = text.value.trim();
      if (!words || !this.#room.live) return;
      text.value = "";
      try {
        await this.#room.say(words);
        this.#hint("");
      } catch (error) {
        this.#hint(error.message, true);
      }
    };
  }

  #wireFiles() {
    const { file, fileInput } = this.#ui;
    file.onclick = () => fileInput.click();
    fileInput.onchange = () => {
      this.play(fileInput.files[0]);
      fileInput.value = "";
    };
  }

  /** Decode a sound or film file here, and let the person speak it. */
  async play(file) {
    if (!file || !this.#room.live) return;
    let sound;
    try {
      sound = await new OfflineAudioContext(1, 1, FILE_RATE_HZ).decodeAudioData(await file.arrayBuffer());
    } catch {
      return this.#hint(`${file.name}: this browser finds no sound in it. Take WAV, MP3, FLAC or Ogg.`, true);
    }
    if (sound.duration > LONGEST_FILE_S) return this.#hint(`${file.name} is longer than ${LONGEST_FILE_S} s. Take a shorter one.`, true);
    try {
      this.#room.voice(mono(sound), FILE_RATE_HZ);
      this.#room.avatar.flush();
      this.#hint(`Playing ${file.name}, ${Math.round(sound.duration)} s`);
    } catch (error) {
      this.#hint(error.message, true);
    }
  }

  #heard({ samples, rate_hz, level }) {
    if (!this.#microphone.open) return;
    this.#level(level);
    if (!this.#room.live || !this.#talking) return;
    if (this.speaks) this.#spurts.take(samples, rate_hz, level, this.hold);
    else this.#room.avatar.pushListeningAudio(samples, { rate: rate_hz });
  }

  #setTalking(talking) {
    this.#talking = talking;
    const { mic, micLabel } = this.#ui;
    mic.setAttribute("aria-pressed", String(talking));
    micLabel.textContent = this.hold ? "Hold to talk" : talking ? "Switch the microphone off" : "Switch the microphone on";
    this.#tellRole();
  }

  #tellRole() {
    this.#ui.micValue.textContent = !this.#talking ? "Off" : this.speaks ? "They speak" : "They listen";
  }

  #level(level) {
    this.#ui.mic.style.setProperty("--level", level.toFixed(2));
    this.#ui.meterBar.style.transform = `scaleX(${level.toFixed(3)})`;
    this.#ui.meter.setAttribute("aria-valuenow", String(Math.round(level * 100)));
  }

  #fault(text) {
    this.quiet();
    this.#warn(text);
    this.#hint(text, true);
  }

  #warn(text) {
    const { micWarning } = this.#ui;
    micWarning.textContent = text;
    micWarning.hidden = !text;
  }
}

/** Int16Array of a decoded sound, its channels mixed. */
function mono(sound) {
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  return Int16Array.from({ length: sound.length }, (_, i) => {
    const sum = channels.reduce((total, channel) => total + channel[i], 0);
    return Math.round(32767 * Math.max(-1, Math.min(1, sum / channels.length)));
  });
}
