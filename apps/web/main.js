/**
 * The page. In the address: ?bg=transparent shows nothing but the person, for OBS; ?portrait=NAME, ?codec=h264|jpeg|rgba,
 * ?mic=listen|speak open the microphone at once, ?start connects at once; #token=… is never sent to anybody but the server.
 */

import { info, thumbnail } from "./visavis.js";
import { Captions } from "./captions.js";
import { Faces } from "./faces.js";
import { Mood } from "./mood.js";
import { report, showChecks, showFigures } from "./panel.js";
import { Phases } from "./phases.js";
import { Room } from "./room.js";
import { Talk } from "./talk.js";

const PATH = "/v1/avatar";
const RETRY_MS = 3000;
const PICTURES = [
  ["auto", "Best this browser can show"],
  ["h264", "H.264 by WebCodecs"],
  ["jpeg", "JPEG pictures"],
  ["rgba", "Without background"],
];

const $ = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search);
const alone = wanted.get("bg") === "transparent";
const room = new Room($("face"));

function remember(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(`visavis.${name}`);
    localStorage.setItem(`visavis.${name}`, value);
  } catch {
    // Storage is a comfort; private windows may have none.
  }
  return null;
}

const faces = new Faces(
  { grid: $("faces"), poster: $("poster"), name: $("face-name"), warning: $("face-warning"), input: $("portrait-input"), frame: $("frame") },
  ({ portrait }) => {
    if (typeof portrait === "string") remember("portrait", portrait);
    if (room.phase !== "off") join();
  },
);

const talk = new Talk(
  room,
  {
    mic: $("mic"), micLabel: $("mic-label"), micValue: $("mic-value"), micWarning: $("mic-warning"), device: $("device"), hold: $("hold"),
    roles: document.querySelectorAll("[name=role]"), role: () => document.querySelector("[name=role]:checked"), meter: $("meter"), meterBar: $("meter-bar"),
    dock: $("dock"), text: $("text"), say: $("say"), file: $("file"), fileInput: $("file-input"), stop: $("stop"),
  },
  (text, bad = false) => {
    $("hint").textContent = text;
    $("hint").classList.toggle("bad", bad);
  },
);

const mood = new Mood(room, {
  states: $("states"), expressions: $("expressions"), strength: $("strength"), strengthValue: $("strength-value"), value: $("mood-value"),
});
const captions = new Captions(room, $("caption"));
new Phases(room, {
  body: document.body, status: $("status-text"), leave: $("leave"), canvas: $("face"), notice: $("notice"), noticeTitle: $("notice-title"),
  noticeText: $("notice-text"), noticeAction: $("notice-action"), announce: $("announce"), chip: $("chip"), chipText: $("chip-text"),
});

/** The address of the protocol on a server that was given in any form. */
function websocket(text) {
  const url = new URL(/^[a-z]+:/.test(text) ? text : `ws://${text || location.host}`);
  url.protocol = url.protocol.replace("http", "ws");
  if (url.pathname === "/") url.pathname = PATH;
  return url.href;
}

function address() {
  return { url: websocket($("url").value.trim()), token: $("token").value };
}

function join() {
  const codec = alone ? "rgba" : $("picture").value;
  return room.join({ ...address(), portrait: faces.chosen?.portrait ?? null, codec });
}

/** The library's faces; without a server there is still one's own picture. */
async function showFaces() {
  const { url, token } = address();
  const picture = (name) => thumbnail(url, name, token);
  const { portraits, expressions } = await info(url, token).catch(() => ({ portraits: [], expressions: [] }));
  faces.show(portraits, picture, wanted.get("portrait") ?? remember("portrait"));
  if (!room.live) mood.show(expressions);
}

function check() {
  return showChecks($("checks"), { ...address(), room });
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
  remember("theme", document.documentElement.dataset.theme);
}

function showCaptions() {
  const shown = captions.toggle();
  $("captions-toggle").setAttribute("aria-pressed", String(shown));
}

function onKey(event) {
  const typing = event.target.matches("input:not([type=radio], [type=checkbox], [type=range]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return talk.interrupt();
  if (typing || event.repeat) return event.code === "Space" && !typing && event.preventDefault();
  // Space presses what has the focus; only elsewhere it is for talking.
  const free = !event.target.closest("button, summary, label, input, a");
  if (event.code === "Space" && free && talk.hold) {
    event.preventDefault();
    talk.press();
  }
  if (event.key === "m") talk.press();
  if (event.key === "c") showCaptions();
}

function wire() {
  $("start").onclick = $("notice-action").onclick = () => join();
  $("leave").onclick = () => room.leave();
  $("theme").onclick = toggleTheme;
  $("captions-toggle").onclick = showCaptions;
  $("recheck").onclick = check;
  $("connection-card").ontoggle = () => $("connection-card").open && check();
  $("connection").onsubmit = async (event) => {
    event.preventDefault();
    await showFaces();
    await join();
  };
  addEventListener("keydown", onKey);
  addEventListener("keyup", (event) => event.code === "Space" && talk.hold && talk.release());
  addEventListener("blur", () => talk.release());
  addEventListener("pointerdown", () => room.live && room.player.sound.resume());
  addEventListener("pagehide", () => room.leave());
  // Whoever points does not mean to leave the Space key with what was pointed at.
  addEventListener("click", (event) => {
    const { activeElement } = document;
    if (event.detail && activeElement.matches("button, summary, [type=radio], [type=checkbox], [type=range]")) activeElement.blur();
  });
  room.addEventListener("phase", onPhase);
  room.addEventListener("message", ({ detail }) => {
    if (detail.type === "draining") $("hint").textContent = `The server stops in ${detail.seconds} s.`;
    if (detail.type === "notice" && detail.kind === "worker_lost") $("hint").textContent = "The model failed and is being started again.";
    if (detail.type === "notice" && detail.kind === "worker_back") $("hint").textContent = "";
  });
}

function onPhase({ detail: { phase, error } }) {
  talk.show();
  $("connection-value").textContent = phase === "live" ? "" : $("status-text").textContent;
  $("connect").textContent = phase === "off" ? "Connect" : "Connect again";
  if (phase === "live") {
    $("hint").textContent = "";
    mood.show(room.avatar.welcome.expressions);
    const mic = wanted.get("mic");
    if (mic) document.querySelector(`[name=role][value=${mic === "speak" ? "speak" : "listen"}]`).checked = true;
    if (mic && !talk.talking) talk.press();
  }
  if (/face|image|portrait/.test(error?.code ?? "")) faces.warn(error.message);
  // Nobody is there to press a button.
  if (alone && (phase === "refused" || phase === "lost")) setTimeout(join, RETRY_MS);
}

async function begin() {
  document.documentElement.classList.toggle("alone", alone);
  setTheme(remember("theme"));
  $("url").value = wanted.get("url") ?? location.origin.replace(/^http/, "ws");
  $("token").value = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
  $("picture").append(...PICTURES.map(([value, label]) => new Option(label, value)));
  if (wanted.get("codec")) $("picture").value = wanted.get("codec");
  wire();
  showFigures(room, { card: $("figures-card"), tiles: $("tiles"), graph: $("graph"), value: $("figures-value"), copy: $("copy") });
  await showFaces();
  await talk.listDevices();
  if (alone || wanted.has("start")) await join();
}

/** For the browser's console, bug reports and tests. */
globalThis.visavis = { room, report: () => report(room), check };

begin();
