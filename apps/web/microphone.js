/** The user's microphone: opened by choice, in pieces of 20 ms, with its level. */

const WORDS = {
  NotAllowedError: "The browser may not use the microphone. Allow it beside the address, then try again.",
  NotFoundError: "No microphone was found. Plug one in, or type instead.",
  NotReadableError: "Another program holds the microphone. Close it, then try again.",
  OverconstrainedError: "That microphone is gone. Choose another one.",
  insecure: "Browsers give the microphone only to pages over https or on localhost. Open the page that way.",
};

export class Microphone {
  #context = null;
  #stream = null;
  #node = null;
  /** onpiece({samples: Int16Array, rate_hz, level}): level is 0 to 1, by ear. */
  onpiece = () => {};
  /** onlost(): the device went away. */
  onlost = () => {};

  get open() {
    return this.#stream !== null;
  }

  /** Raises Error with words for the user, and `.reason`. `device` is a deviceId, "" for the default one. */
  async start(device = "") {
    this.stop();
    if (!navigator.mediaDevices) throw fault("insecure");
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    if (device) wanted.deviceId = { exact: device };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    } catch (error) {
      throw fault(error.name, error);
    }
    this.#stream.getAudioTracks()[0].onended = () => this.#lose();
    await this.#listen();
  }

  async #listen() {
    const context = new AudioContext({ latencyHint: "interactive" });
    this.#context = context;
    await context.audioWorklet.addModule(new URL("capture.worklet.js", import.meta.url));
    if (context !== this.#context) return;
    this.#node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    this.#node.port.onmessage = ({ data }) => {
      this.onpiece({ samples: data.samples, rate_hz: context.sampleRate, level: loudness(data.power) });
    };
    context.createMediaStreamSource(this.#stream).connect(this.#node);
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#node?.port.close();
    this.#context?.close();
    this.#stream = this.#context = this.#node = null;
  }

  #lose() {
    this.stop();
    this.onlost();
  }

  /** [{id, label}]; labels are empty until the user has allowed a microphone. */
  static async devices() {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all
      .filter(({ kind, deviceId }) => kind === "audioinput" && deviceId !== "default")
      .map(({ deviceId, label }) => ({ id: deviceId, label }));
  }
}

/** 0 at -60 dB and below, 1 at -6 dB: what a voice fills. */
function loudness(power) {
  return Math.max(0, Math.min(1, (10 * Math.log10(power + 1e-9) + 60) / 54));
}

function fault(reason, cause) {
  const error = new Error(WORDS[reason] ?? `The microphone cannot be used: ${cause?.message ?? reason}`, { cause });
  error.reason = reason;
  return error;
}
