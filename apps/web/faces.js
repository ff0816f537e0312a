/** The portraits: the server's library as a grid, and one's own by button, drop or paste. */

const MOST_SIDE_PX = 2048;
const MOST_BYTES = 8 * 1024 * 1024;
const SOFT_BELOW_PX = 256;
const JPEG_QUALITY = 0.92;
const RETRY_MS = 3000;

/** onchosen({portrait: name or Blob, label}) is called for each choice of the user. */
export class Faces {
  chosen = null;
  #grid;
  #input;
  #poster;
  #name;
  #warning;
  #own = null;
  #onchosen;

  constructor({ grid, poster, name, warning, input, frame }, onchosen) {
    this.#grid = grid;
    this.#poster = poster;
    this.#name = name;
    this.#warning = warning;
    this.#onchosen = onchosen;
    input.onchange = () => {
      this.take(input.files[0]);
      input.value = "";
    };
    this.#input = input;
    grid.onkeydown = (event) => this.#walk(event);
    receiveDrops(frame, (file) => this.take(file));
    addEventListener("paste", ({ clipboardData }) => clipboardData.files[0] && this.take(clipboardData.files[0]));
  }

  /** Show the library: `names`, and `fetched(name)` that gives a Blob in time. */
  show(names, fetched, preferred) {
    this.#grid.replaceChildren(...names.map((name) => this.#button(name)), this.#addButton());
    const first = names.includes(preferred) ? preferred : names[0];
    if (!first) return;
    if (!this.chosen) this.#choose(this.#grid.querySelector(`[data-name="${CSS.escape(first)}"]`), false);
    this.#loadAll([first, ...names.filter((name) => name !== first)], fetched);
  }

  /** One at a time, since the server has to find each face. */
  async #loadAll(names, fetched) {
    const missed = [];
    for (const name of names) if (!(await this.#load(name, fetched))) missed.push(name);
    if (!missed.length) return;
    // A server that has just begun may be too busy.
    await new Promise((done) => setTimeout(done, RETRY_MS));
    for (const name of missed) await this.#load(name, fetched);
  }

  /** One's own picture: looked at, made smaller where it is too large, and chosen. */
  async take(file) {
    if (!file) return;
    const { blob, warning, url } = await prepare(file);
    this.warn(warning, !blob);
    if (!blob) return;
    URL.revokeObjectURL(this.#own?.querySelector("img").src);
    this.#own?.remove();
    this.#own = this.#button("Your picture", blob, url);
    this.#grid.prepend(this.#own);
    this.#choose(this.#own);
  }

  /** What is wrong with the portrait, "" for nothing. */
  warn(text, bad = true) {
    this.#warning.textContent = text;
    this.#warning.hidden = !text;
    this.#warning.classList.toggle("bad", bad);
  }

  #button(label, blob = null, url = "") {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", title: capital(label), tabIndex: -1 });
    for (const [name, value] of [["role", "radio"], ["aria-label", capital(label)], ["aria-checked", "false"]]) {
      button.setAttribute(name, value);
    }
    button.dataset.name = label;
    button.dataset.initial = label[0].toUpperCase();
    button.portrait = blob ?? label;
    if (url) button.append(picture(url));
    button.onclick = () => {
      this.warn("");
      this.#choose(button);
    };
    return button;
  }

  #addButton() {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "add", title: "Use your own picture" });
    button.setAttribute("aria-label", button.title);
    button.innerHTML = '<svg aria-hidden="true"><use href="#i-add"/></svg>';
    button.onclick = () => this.#input.click();
    return button;
  }

  /** Whether there is a picture now. */
  async #load(name, fetched) {
    const button = this.#grid.querySelector(`[data-name="${CSS.escape(name)}"]`);
    try {
      button.append(picture(URL.createObjectURL(await fetched(name))));
    } catch (error) {
      console.warn(`no picture of ${name}:`, error.message);
      return false;
    }
    if (button === this.chosen?.button) this.#show(button);
    return true;
  }

  #choose(button, byUser = true) {
    for (const each of this.#grid.querySelectorAll("[role=radio]")) {
      each.setAttribute("aria-checked", String(each === button));
      each.tabIndex = each === button ? 0 : -1;
    }
    this.chosen = { portrait: button.portrait, label: capital(button.dataset.name), button };
    this.#show(button);
    if (byUser) this.#onchosen(this.chosen);
  }

  #show(button) {
    this.#name.textContent = this.chosen.label;
    const image = button.querySelector("img");
    this.#poster.hidden = !image;
    if (image) this.#poster.src = image.src;
  }

  /** Arrows move the choice, as in any group of radio buttons. */
  #walk(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = [...this.#grid.querySelectorAll("[role=radio]")];
    const at = all.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = all[(at + step + all.length) % all.length];
    next.focus();
    next.click();
  }
}

/** {blob, url, warning}; blob is null where the file is no picture. Turned upright and at most 2048 pixels a side. */
async function prepare(file) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    return { blob: null, url: "", warning: "That file is not a picture this browser can read. Take a JPEG, PNG or WebP." };
  }
  const { width, height } = image;
  const scale = Math.min(1, MOST_SIDE_PX / Math.max(width, height));
  const blob = scale < 1 || file.size > MOST_BYTES ? await redraw(image, scale) : file;
  const small = Math.min(width, height) < SOFT_BELOW_PX;
  const warning = small ? `Only ${width} × ${height} pixels: they will look soft. Take a larger picture if you can.` : "";
  return { blob, url: URL.createObjectURL(blob), warning };
}

function redraw(image, scale) {
  const canvas = new OffscreenCanvas(Math.round(image.width * scale), Math.round(image.height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
}

function receiveDrops(frame, take) {
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    frame.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => !event.relatedTarget && frame.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    frame.classList.remove("dropping");
    take(event.dataTransfer.files[0]);
  });
}

function picture(url) {
  return Object.assign(new Image(), { src: url, alt: "", draggable: false });
}

function capital(name) {
  return name[0].toUpperCase() + name.slice(1).replaceAll(/[-_]/g, " ");
}
