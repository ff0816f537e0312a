import { readFile, writeFile } from "node:fs/promises";
import { connect } from "../web/visavis.js";

const avatar = await connect("ws://127.0.0.1:8765", {
  portrait: "anna",
  video: { codec: "jpeg" },
  onvideo: ({ utterance, payload }) => utterance && writeFile("face.jpg", payload),
  onmessage: ({ type, position_s }) => type === "playback.finished" && avatar.close().then(() => console.log(position_s)),
});
const wav = await readFile(process.argv[2]); // 16-bit mono, 16 kHz
avatar.pushAudio(wav.subarray(44), { last: true });
