/** Passes the microphone on in pieces of 20 ms: {samples: Int16Array, peak, power}. */

const PIECE_S = 0.02;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate * PIECE_S));
    this.clear();
  }

  clear() {
    this.filled = this.peak = this.power = 0;
  }

  process(inputs) {
    for (const value of inputs[0][0] ?? []) this.add(Math.max(-1, Math.min(1, value)));
    return true;
  }

  add(value) {
    this.piece[this.filled++] = Math.round(value * 32767);
    this.peak = Math.max(this.peak, Math.abs(value));
    this.power += value * value;
    if (this.filled < this.piece.length) return;
    this.port.postMessage({ samples: this.piece.slice(), peak: this.peak, power: this.power / this.filled });
    this.clear();
  }
}

registerProcessor("capture", Capture);
