/** What they say, under their face, as far as this page knows it: texts that were typed here. */

const CHARACTERS_PER_S = 15;
const LONGEST_LINE = 88;
const LINGER_MS = 1200;

export class Captions {
  shown = true;
  #element;
  #lines = new Map();
  #now = 0;

  constructor(room, element) {
    this.#element = element;
    room.addEventListener("asked", ({ detail }) => this.#lines.set(detail.utterance, split(detail.text)));
    room.addEventListener("shown", ({ detail }) => this.#follow(detail.message));
    room.addEventListener("message", ({ detail }) => detail.type === "playback.finished" && this.#finish(detail));
    room.addEventListener("phase", ({ detail }) => detail.phase !== "live" && this.#clear());
  }

  toggle() {
    this.shown = !this.shown;
    if (!this.shown) this.#element.hidden = true;
    return this.shown;
  }

  #follow({ utterance, value }) {
    const lines = this.#lines.get(utterance);
    if (!lines || !this.shown) return;
    this.#now = utterance;
    const character = (value / 16_000) * CHARACTERS_PER_S;
    const line = lines.findLast(({ from }) => from <= character) ?? lines[0];
    if (this.#element.textContent !== line.text) this.#element.textContent = line.text;
    this.#element.hidden = false;
  }

  #finish({ utterance, interrupted }) {
    this.#lines.delete(utterance);
    setTimeout(() => this.#now === utterance && this.#hide(), interrupted ? 0 : LINGER_MS);
  }

  #clear() {
    this.#lines.clear();
    this.#hide();
  }

  #hide() {
    this.#element.hidden = true;
    this.#element.textContent = "";
  }
}

/** [{from, text}]: lines that fit, cut at the ends of sentences and between words. */
function split(text) {
  const lines = [];
  let from = 0;
  let line = "";
  for (const word of text.match(/\S+\s*/g) ?? []) {
    if (line && (line.length + word.length > LONGEST_LINE || /[.!?…]["')\]]?\s*$/.test(line) && line.length > LONGEST_LINE / 3)) {
      lines.push({ from, text: line.trim() });
      from += line.length;
      line = "";
    }
    line += word;
  }
  return [...lines, { from, text: line.trim() }];
}
