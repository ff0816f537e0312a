/** Looks whether everything is there that the page needs, and says in plain words what to do where it is not. */

import { info } from "./visavis.js";
import { Microphone } from "./microphone.js";
import { codecs } from "./pictures.js";

/** [{name, verdict: "good" | "warn" | "bad", advice}]; `room` tells about the session there is, if any. */
export async function checkup({ url, token, room }) {
  return Promise.all([secure(), server(url, token, room), socket(room), picture(room), loudspeaker(room), microphone()]);
}

function secure() {
  const name = "Secure page";
  if (isSecureContext) return { name, verdict: "good", advice: "" };
  return {
    name,
    verdict: "bad",
    advice: "Over plain http, browsers give neither microphone nor hardware video. Open the page at http://localhost, or put visavis behind https.",
  };
}

async function server(url, token, room) {
  const name = "Server";
  try {
    const { model, backend, sessions, capacity, ready } = await info(url, token);
    if (!ready) return { name, verdict: "warn", advice: "It is still starting. Wait a moment, then check again." };
    const verdict = sessions >= capacity && !room.live ? "warn" : "good";
    return { name, verdict, advice: `Model ${model} on ${backend}; ${sessions} of ${capacity} places taken.` };
  } catch (error) {
    return { name, verdict: "bad", advice: adviceFor(error) };
  }
}

async function socket(room) {
  const name = "WebSocket";
  const { avatar } = room;
  if (!room.live) return { name, verdict: "warn", advice: "Not connected now, so not tried." };
  let round_ms;
  try {
    const begun_ms = performance.now();
    await avatar.request({ type: "ping", t: 0 });
    round_ms = Math.round(performance.now() - begun_ms);
  } catch {
    return { name, verdict: "bad", advice: "The server does not answer. A proxy or a virus scanner may hold WebSockets back." };
  }
  const far = round_ms > 150;
  const advice = `Answers in ${round_ms} ms.${far ? " That is far for a conversation; a wire instead of radio may help." : ""}`;
  return { name, verdict: far ? "warn" : "good", advice };
}

async function picture(room) {
  const name = "Picture";
  const { usable, why } = await codecs();
  const used = room.avatar?.welcome?.video?.codec;
  const say = used ? `In use: ${used}. ` : "";
  if (usable.includes("h264")) return { name, verdict: "good", advice: `${say}H.264 through WebCodecs is there.` };
  return { name, verdict: "warn", advice: `${say}JPEG is used instead of H.264, with more traffic, since ${why.h264}.` };
}

function loudspeaker(room) {
  const name = "Sound";
  if (!globalThis.AudioWorkletNode) {
    return { name, verdict: "bad", advice: "This browser has no AudioWorklet here, so you will see but not hear." };
  }
  const { sound } = room.player;
  if (sound.running) return { name, verdict: "good", advice: `Plays, ${Math.round(sound.latency_ms)} ms to the ear.` };
  return { name, verdict: "warn", advice: "Not started yet. Browsers wait for a click on the page." };
}

async function microphone() {
  const name = "Microphone";
  if (!navigator.mediaDevices) return { name, verdict: "bad", advice: "Only on a secure page; see above." };
  const devices = await Microphone.devices();
  if (!devices.length) return { name, verdict: "warn", advice: "None found. You can still type and play files." };
  const state = await navigator.permissions?.query({ name: "microphone" }).then(({ state }) => state, () => "prompt");
  if (state === "denied") return { name, verdict: "bad", advice: "Blocked for this page. Allow it beside the address." };
  return { name, verdict: "good", advice: state === "granted" ? "Allowed." : "The browser will ask when you first talk." };
}

const ADVICE = {
  unreachable: "Nothing answers there. Is visavis serve running, and is the address right?",
  unauthorized: "It wants a token: the one visavis serve was started with.",
  forbidden_origin: "It does not take this page's address. Start visavis serve with that origin allowed.",
  forbidden_host: "It does not know itself by that name. Open the page by the address visavis serve printed.",
  engine_full: "All places are taken. Wait, or start the server with more sessions.",
  timeout: "The server took the connection but did not begin. It may be loading the model; try again.",
  draining: "The server is about to stop. Try again in a moment.",
  not_ready: "The model is still being loaded. Try again in a moment.",
};

/** What to do about a refusal, in words for the user. */
export function adviceFor(error) {
  return ADVICE[error.code] ?? error.message;
}
