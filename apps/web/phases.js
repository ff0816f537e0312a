/** What the page says about the connection: the status line, and the notice over the face. */

import { adviceFor } from "./checkup.js";

const SAYINGS = {
  off: { status: "Not connected" },
  connecting: { status: "Connecting…", title: "One moment", text: "Getting them ready." },
  resuming: { status: "Connection lost, coming back…", title: "Connection lost", text: "Coming back by itself. What they said is lost; the rest goes on." },
  refused: { status: "Refused", title: "That did not work", action: "Try again" },
  lost: { status: "Connection lost", title: "The conversation ended", action: "Connect again" },
};

export class Phases {
  #room;
  #ui;

  constructor(room, ui) {
    this.#room = room;
    this.#ui = ui;
    room.addEventListener("phase", ({ detail }) => this.#show(detail));
    room.addEventListener("doing", ({ detail }) => this.#doing(detail.doing));
  }

  #show({ phase, error }) {
    const { body, status, leave, canvas } = this.#ui;
    body.dataset.phase = phase;
    leave.hidden = phase === "off" || phase === "refused" || phase === "lost";
    status.textContent = phase === "live" ? this.#facts() : SAYINGS[phase].status;
    canvas.setAttribute("aria-label", phase === "live" ? "A talking person, made by AI" : "Nobody yet");
    this.#notice(SAYINGS[phase] ?? {}, error);
  }

  #notice({ title, text, action }, error) {
    const { notice, noticeTitle, noticeText, noticeAction, announce } = this.#ui;
    notice.hidden = !title;
    if (!title) return;
    const words = text ?? (error ? adviceFor(error) : "");
    noticeTitle.textContent = title;
    noticeText.textContent = words;
    noticeAction.hidden = !action;
    noticeAction.textContent = action ?? "";
    notice.classList.toggle("still", Boolean(action));
    if (action) announce.textContent = `${title}. ${words}`;
  }

  #facts() {
    const { model, video } = this.#room.avatar.welcome;
    return `Live · ${model} · ${video.width} px · ${video.codec}`;
  }

  #doing(doing) {
    const { body, chip, chipText } = this.#ui;
    chip.hidden = !doing;
    chipText.textContent = { speaking: "Speaking", listening: "Listening", idle: "Idle" }[doing] ?? "";
    if (doing) body.dataset.doing = doing;
    else delete body.dataset.doing;
  }
}
