/** The cards about the connection: live figures with their graph, and the self-check. */

import { checkup } from "./checkup.js";
import { round } from "./figures.js";
import { draw } from "./graph.js";

const REDRAW_MS = 250;
const MARKS = { good: "✓", warn: "!", bad: "✕" };

/** Tiles of the live figures: [title, colour, value of a snapshot in ms, small print]. */
const TILES = [
  ["First frame", "--c-answer", (f) => f.answer_ms?.p50 ?? f.first_picture_ms, (f) => (f.answer_ms ? "from your words" : "from connecting")],
  ["Frame interval", "--c-interval", (f) => f.frame_interval_ms?.mean, (f) => f.frame_interval_ms && `p95 ${f.frame_interval_ms.p95}`],
  ["Queue", "--c-queue", (f) => f.queue_ms?.p50, (f) => f.queue_ms && `p95 ${f.queue_ms.p95}`],
  ["A/V skew p95", "--c-skew", (f) => f.av_skew_ms?.p95, (f) => f.av_skew_ms && `most ${f.av_skew_ms.most}`],
];

/** Keep the figures on show while their card is open. */
export function showFigures(room, { card, tiles, graph, value, copy }) {
  const parts = TILES.map(([title, key]) => {
    const tile = document.createElement("div");
    tile.innerHTML = "<dt></dt><dd><span></span> <small></small></dd>";
    tile.querySelector("dt").textContent = title;
    tile.style.setProperty("--key", `var(${key})`);
    tiles.append(tile);
    return { number: tile.querySelector("span"), small: tile.querySelector("small") };
  });
  setInterval(() => {
    if (document.hidden) return;
    const figures = room.figures.snapshot();
    value.textContent = figures.frame_interval_ms ? `${round(1000 / figures.frame_interval_ms.mean)} fps` : "";
    if (!card.open) return;
    TILES.forEach(([, , number, small], i) => {
      const known = number(figures);
      parts[i].number.textContent = known == null ? "–" : `${known < 100 ? known : Math.round(known)} ms`;
      parts[i].small.textContent = small(figures) ?? "";
    });
    draw(graph, room.figures.bins());
  }, REDRAW_MS);
  copy.onclick = () => copyReport(room, copy.querySelector("span"));
}

/** Everything that helps in a bug report, as plain data. */
export function report(room) {
  const { sound, clock, screen } = room.player;
  const { welcome = null } = room.avatar ?? {};
  return {
    page: room.figures.snapshot(),
    player: {
      sound_latency_ms: round(sound.latency_ms),
      sound_missed_ms: round(sound.missed_ms),
      clock_slips: clock.slips,
      clock_slipped_ms: round(clock.slipped_ms),
      pictures_dropped: screen.dropped,
    },
    server: room.metrics,
    session: welcome && { model: welcome.model, backend: welcome.backend, video: welcome.video, server: welcome.server },
    browser: navigator.userAgent,
    secure: isSecureContext,
    at: new Date().toISOString(),
  };
}

async function copyReport(room, label) {
  const before = "Copy as JSON";
  try {
    await navigator.clipboard.writeText(JSON.stringify(report(room), null, 2));
    label.textContent = "Copied";
  } catch {
    label.textContent = "The browser does not let this page copy";
  }
  setTimeout(() => { label.textContent = before; }, 2000);
}

/** Run the self-check and list what it says. */
export async function showChecks(list, question) {
  list.setAttribute("aria-busy", "true");
  const answers = await checkup(question);
  list.replaceChildren(...answers.map(({ name, verdict, advice }) => {
    const item = document.createElement("li");
    item.innerHTML = '<span class="mark"></span><strong></strong><p></p>';
    const [mark, title, text] = item.children;
    mark.classList.add(verdict);
    mark.textContent = MARKS[verdict];
    mark.setAttribute("aria-label", { good: "fine", warn: "mind", bad: "problem" }[verdict]);
    mark.setAttribute("role", "img");
    title.textContent = name;
    text.textContent = advice;
    return item;
  }));
  list.removeAttribute("aria-busy");
  return answers;
}
