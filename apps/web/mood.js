/** State and expression: what they do, how they look, how strongly. */

const FADE_MS = 300;
/** The slider is told at most so often. */
const SLIDER_EVERY_MS = 100;

export class Mood {
  #room;
  #ui;
  #pending = null;

  constructor(room, ui) {
    this.#room = room;
    this.#ui = ui;
    ui.states.onchange = () => this.#sendState();
    ui.expressions.onchange = () => this.#sendExpression();
    ui.strength.oninput = () => {
      ui.strengthValue.textContent = `${ui.strength.value} %`;
      this.#pending ??= setTimeout(() => {
        this.#pending = null;
        this.#sendExpression();
      }, SLIDER_EVERY_MS);
    };
    this.show([]);
  }

  /** The server's names; a new session begins with what is chosen here. */
  show(names) {
    const chosen = this.#expression;
    const chips = [["", "Free"], ...names.map((name) => [name, name[0].toUpperCase() + name.slice(1)])];
    this.#ui.expressions.replaceChildren(...chips.map(([value, label]) => chip(value, label, value === chosen)));
    if (this.#state !== "auto") this.#sendState();
    if (chosen) this.#sendExpression();
  }

  get #state() {
    return this.#ui.states.querySelector(":checked").value;
  }

  get #expression() {
    return this.#ui.expressions.querySelector(":checked")?.value ?? "";
  }

  #sendState() {
    if (this.#room.live) this.#room.avatar.setState(this.#state);
  }

  #sendExpression() {
    const name = this.#expression;
    const strength = this.#ui.strength.value / 100;
    this.#ui.value.textContent = name ? name[0].toUpperCase() + name.slice(1) : "Free";
    if (!this.#room.live) return;
    if (name) this.#room.avatar.setExpression(name, { strength, fade_ms: FADE_MS });
    else this.#room.avatar.setExpression(null, { fade_ms: FADE_MS });
  }
}

function chip(value, label, checked) {
  const element = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "expression", value, checked });
  const text = document.createElement("span");
  text.textContent = label;
  element.append(input, text);
  return element;
}
