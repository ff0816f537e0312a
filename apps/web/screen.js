/** The canvas: shows each picture when the sound's clock reaches it, and measures how well that went. */

const LONGEST_QUEUE = 10;
/** A picture is shown on the refresh that is nearest to its moment. */
const EARLY_US = 8_000;
const REFRESH_MS = { least: 4, usual: 1000 / 60, most: 34 };

export class Screen {
  #canvas;
  #paper;
  #clock;
  #queue = [];
  #refresh_ms = REFRESH_MS.usual;
  #last_ms = 0;
  #drawn_ms = null;
  /** Called as onshown({pts_us, message, at_ms, interval_ms, skew_ms}) for each picture that is drawn. */
  onshown = () => {};
  dropped = 0;

  constructor(canvas, clock) {
    this.#canvas = canvas;
    this.#paper = canvas.getContext("2d");
    this.#clock = clock;
    const turn = (at_ms) => {
      this.#turn(at_ms);
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  }

  get waiting() {
    return this.#queue.length;
  }

  push(picture) {
    this.#queue.push(picture);
    if (this.#queue.length > LONGEST_QUEUE) this.#forget(this.#queue.shift());
  }

  /** Forget what waits; the picture that is seen stays. */
  drop() {
    for (const picture of this.#queue.splice(0)) close(picture.image);
  }

  reset() {
    this.drop();
    this.#drawn_ms = null;
  }

  #forget(picture) {
    this.dropped += 1;
    close(picture.image);
  }

  #turn(at_ms) {
    this.#learn(at_ms);
    const seen_ms = at_ms + this.#refresh_ms;
    const now_us = this.#clock.at(seen_ms);
    if (now_us === null) return;
    let due = null;
    while (this.#queue.length && this.#queue[0].pts_us <= now_us + EARLY_US) {
      if (due) this.#forget(due);
      due = this.#queue.shift();
    }
    if (due) this.#draw(due, seen_ms, (now_us - due.pts_us) / 1000);
  }

  #learn(at_ms) {
    const since_ms = at_ms - this.#last_ms;
    this.#last_ms = at_ms;
    if (since_ms > REFRESH_MS.least && since_ms < REFRESH_MS.most) this.#refresh_ms += (since_ms - this.#refresh_ms) / 30;
  }

  #draw({ image, pts_us, message }, at_ms, skew_ms) {
    const width = image.displayWidth ?? image.width;
    const height = image.displayHeight ?? image.height;
    const canvas = this.#canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (image instanceof ImageData) this.#paper.putImageData(image, 0, 0);
    else this.#paper.drawImage(image, 0, 0);
    close(image);
    const interval_ms = this.#drawn_ms === null ? null : at_ms - this.#drawn_ms;
    this.#drawn_ms = at_ms;
    this.onshown({ pts_us, message, at_ms, interval_ms, skew_ms });
  }
}

function close(image) {
  image.close?.();
}
