"""The JavaScript client in Node, against a server on the loopback: what the page and others build upon."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("websockets")
from serving import Running, mock_config, running, tone

from apps.server.access import AccessConfig
from apps.server.limits import Limits

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "apps" / "web" / "visavis.js"
EXAMPLE = ROOT / "apps" / "examples" / "ten_lines.mjs"
OLDEST_NODE = 22
TOKEN = "a-token-of-enough-length"
PATIENCE_S = 60


def node() -> str | None:
    """A Node that has a WebSocket of its own."""
    place = shutil.which("node")
    if place is None:
        return None
    version = subprocess.run([place, "--version"], capture_output=True, text=True, timeout=30).stdout
    number = re.match(r"v(\d+)", version)
    return place if number and int(number[1]) >= OLDEST_NODE else None


NODE = node()
pytestmark = pytest.mark.skipif(NODE is None, reason=f"needs node, {OLDEST_NODE} or newer")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    config = mock_config(limits=Limits(sessions=2), access=AccessConfig(token=TOKEN), grace_s=5.0)
    with running(config) as served:
        yield served


def run(server: Running, tmp_path: Path, script: str) -> Any:
    """What the script gives to `tell`, once it has ended by itself."""
    program = tmp_path / "script.mjs"
    program.write_text(
        f"""
        import net from "node:net";
        import {{ Avatar, RefusedError, connect, info, samplesOf, thumbnail }} from {json.dumps(MODULE.as_uri())};
        const url = {json.dumps(server.url)}, token = {json.dumps(TOKEN)};
        const tell = (what) => console.log(JSON.stringify(what));
        const tone = (seconds, rate) => Float32Array.from({{ length: seconds * rate }}, (_, i) => Math.sin(i / 9) / 2);
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        {script}
        """
    )
    done = subprocess.run([str(NODE), program], capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_speaks_and_hears_every_frame(server: Running, tmp_path: Path) -> None:
    told = run(
        server,
        tmp_path,
        """
        const seen = { pictures: 0, jpegs: 0, samples: 0, loud: 0, types: [], states: [] };
        let over;
        const finished = new Promise((done) => (over = done));
        const avatar = await connect(url, {
          token, portrait: "anna", video: { codec: "jpeg" },
          onvideo: ({ payload }) => { seen.pictures++; seen.jpegs += payload[0] === 0xff && payload[1] === 0xd8; },
          onaudio: (sound) => {
            for (const x of samplesOf(sound)) { seen.samples++; seen.loud += Math.abs(x) > 3000; }
          },
          onmessage: (message) => {
            seen.types.push(message.type);
            if (message.type === "playback.finished") over(message);
          },
          onstate: (state) => seen.states.push(state),
        });
        seen.utterance = avatar.pushAudio(tone(1, 24000), { rate: 24000, last: true });
        seen.finished = await finished;
        await avatar.setExpression("happy", { strength: 0.5, at_ms: 100 });
        seen.refused = await avatar.setState("nonsense").catch((error) => [error instanceof RefusedError, error.code]);
        seen.ping = (await avatar.request({ type: "ping", t: 5 })).t;
        await avatar.close();
        await avatar.close();
        tell(seen);
        """,
    )
    assert told["utterance"] == 1 and told["finished"]["reason"] == "complete"
    assert told["finished"]["position_samples"] == 16_000
    assert told["pictures"] >= 25 and told["jpegs"] == told["pictures"]
    assert told["samples"] == 16_000 and told["loud"] > 8_000
    assert told["types"][0] == "welcome" and told["types"].count("playback.finished") == 2
    assert told["states"] == ["connecting", "live", "closed"]
    assert told["refused"] == [True, "bad_field"] and told["ping"] == 5


def test_an_interrupt_ends_the_sound_at_once(server: Running, tmp_path: Path) -> None:
    told = run(
        server,
        tmp_path,
        """
        let calls = 0, cut = false, late = 0, heard;
        const speaking = new Promise((done) => (heard = done));
        const avatar = await connect(url, {
          token, portrait: "anna", video: { codec: "jpeg" },
          onaudio: ({ utterance }) => { if (++calls === 10) heard(); late += cut && utterance === 1; },
        });
        avatar.pushAudio(tone(20, 16000));
        await speaking;
        cut = true;
        const first = await avatar.interrupt(), second = await avatar.interrupt();
        const next = avatar.pushAudio(tone(0.1, 16000));
        await wait(200);
        await avatar.close();
        tell({ first, second, late, next, epoch: avatar.epoch });
        """,
    )
    assert told["first"]["utterance"] == 1 and told["first"]["position_samples"] >= 6_400
    assert told["second"]["utterance"] is None and told["epoch"] == 1
    assert told["late"] == 0 and told["next"] == 2


def test_a_cut_connection_is_resumed_where_it_was(server: Running, tmp_path: Path) -> None:
    told = run(
        server,
        tmp_path,
        """
        const place = new URL(url), open = new Set();
        const relay = net.createServer((here) => {
          const there = net.connect(Number(place.port), place.hostname);
          for (const [one, other] of [[here, there], [there, here]]) {
            open.add(one);
            one.on("error", () => {}).on("close", () => { open.delete(one); other.destroy(); }).pipe(other);
          }
        });
        await new Promise((done) => relay.listen(0, "127.0.0.1", done));
        const states = [], ends = [];
        let heard, back, newest = 0;
        const speaking = new Promise((done) => (heard = done)), live = new Promise((done) => (back = done));
        const avatar = await connect(`ws://127.0.0.1:${relay.address().port}`, {
          token, portrait: "anna", video: { codec: "jpeg" },
          onvideo: ({ pts_us, utterance }) => { newest = pts_us; if (utterance) heard(); },
          onmessage: ({ type, utterance, reason }) => type === "playback.finished" && ends.push([utterance, reason]),
          onstate: (state) => { states.push(state); if (states.includes("lost") && state === "live") back(); },
        });
        const session = avatar.welcome.session;
        avatar.pushAudio(tone(20, 16000));
        await speaking;
        const before = newest;
        for (const socket of open) socket.destroy();
        await live;
        await wait(300);
        const same = avatar.welcome.session === session && avatar.welcome.resumed;
        await avatar.close();
        relay.close();
        tell({ same, states, ends, advanced: newest > before });
        """,
    )
    assert told["same"] and told["advanced"]
    assert told["states"][:4] == ["connecting", "live", "lost", "resuming"] and told["states"][-1] == "closed"
    assert told["ends"] == [[1, "disconnected"]]


def test_an_uploaded_portrait_and_what_is_refused(server: Running, tmp_path: Path) -> None:
    picture = json.dumps(str(ROOT / "assets" / "portraits" / "mei.jpg"))
    told = run(
        server,
        tmp_path,
        f"""
        import {{ readFile }} from "node:fs/promises";
        const avatar = await connect(url, {{ token, portrait: await readFile({picture}), video: {{ codec: "jpeg" }} }});
        const own = avatar.welcome.portrait;
        await avatar.close();
        const why = (work) => work.then(() => "welcome", (error) => error.code);
        tell({{
          own,
          token: await why(connect(url, {{ token: "another-token-of-that-length" }})),
          portrait: await why(connect(url, {{ token, portrait: "nobody" }})),
          picture: await why(connect(url, {{ token, portrait: new Uint8Array(1000) }})),
          nobody: await why(connect("ws://127.0.0.1:9")),
          library: (await info(url, token)).portraits.includes("mei"),
          face: (await thumbnail(url, "mei", token)).size > 1000,
        }});
        """,
    )
    assert told["own"] == {"library": None} and told["library"] and told["face"]
    assert (told["token"], told["portrait"]) == ("unauthorized", "unknown_portrait")
    assert (told["picture"], told["nobody"]) == ("not_an_image", "unreachable")


def test_no_more_sound_is_under_way_than_is_wanted(tmp_path: Path) -> None:
    program = tmp_path / "outbox.mjs"
    program.write_text(
        f"""
        import {{ Outbox }} from {json.dumps((MODULE.parent / "outbox.js").as_uri())};
        const sent = [], box = new Outbox((data) => sent.push(data) > 0);
        box.high_ms = 1000;
        let dropped = 0;
        for (let i = 0; i < 20; i++) box.put(`sound ${{i}}`, 1, 500, () => dropped++);
        const first = sent.length;
        box.heard(1, 1000);
        const second = sent.length;
        box.pause(true);
        box.heard(1, 5000);
        const paused = sent.length, room = [box.hasRoom(230000), box.hasRoom(240000)];
        box.clear();
        console.log(JSON.stringify({{ first, second, paused, room, dropped, waiting: box.waiting_ms }}));
        """
    )
    done = subprocess.run([str(NODE), program], capture_output=True, text=True, timeout=PATIENCE_S)
    told = json.loads(done.stdout)
    assert (told["first"], told["second"], told["paused"]) == (3, 5, 5)
    assert told["room"] == [True, False] and told["dropped"] == 15 and told["waiting"] == 0


def test_the_ten_lines_speak_a_recording(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone(0.5).tobytes())
    text = EXAMPLE.read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    with running(mock_config()) as served:
        text = text.replace("ws://127.0.0.1:8765", served.url).replace("../web/visavis.js", MODULE.as_uri())
        (tmp_path / "speak.mjs").write_text(text)
        done = subprocess.run(
            [str(NODE), "speak.mjs", "voice.wav"], capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.5"
    assert (tmp_path / "face.jpg").read_bytes()[:2] == b"\xff\xd8"
