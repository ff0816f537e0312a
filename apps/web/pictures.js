/** Encoded pictures in, drawable pictures out, each with its `pts_us`, in order. One class for each codec. */

const H264_TRIES = ["avc1.42C01F", "avc1.42E01F"];

/** What this browser can show, best first, and why not for the rest. */
export async function codecs() {
  const answer = { usable: ["jpeg"], why: {} };
  if (!globalThis.VideoDecoder) {
    answer.why.h264 = isSecureContext ? "this browser has no WebCodecs" : "WebCodecs needs https or localhost";
    return answer;
  }
  for (const codec of H264_TRIES) {
    const { supported } = await VideoDecoder.isConfigSupported({ codec, optimizeForLatency: true });
    if (supported) return { usable: ["h264", "jpeg"], why: {} };
  }
  answer.why.h264 = "this browser's WebCodecs cannot decode H.264";
  return answer;
}

/** Opens the decoder for what `welcome.video` says. `shown(picture)` gets {image, pts_us, message}. */
export function decoder(video, shown, failed) {
  if (video.codec === "h264") return new H264(video, shown, failed);
  if (video.codec === "rgba") return new Raw(video, shown);
  return new Jpeg(shown, failed);
}

class H264 {
  #decoder = null;
  #config;
  #waiting = new Map();
  #shown;
  #failed;
  #starved = true;

  constructor(video, shown, failed) {
    this.#config = { codec: video.codec_string ?? H264_TRIES[0], optimizeForLatency: true };
    this.#shown = shown;
    this.#failed = failed;
    this.#open();
  }

  #open() {
    this.#starved = true;
    this.#decoder = new VideoDecoder({
      output: (image) => this.#out(image),
      error: (error) => this.#fail(error),
    });
    this.#decoder.configure(this.#config);
  }

  #out(image) {
    const message = this.#waiting.get(image.timestamp);
    this.#waiting.delete(image.timestamp);
    if (message) this.#shown({ image, pts_us: message.pts_us, message });
    else image.close();
  }

  /** A decoder that failed is of no more use; a new one waits for the key frame that `failed` asks for. */
  #fail(error) {
    this.#waiting.clear();
    this.#open();
    this.#failed(error);
  }

  push(message) {
    if (this.#starved && !message.key) return this.#failed(null);
    this.#starved = false;
    this.#waiting.set(message.pts_us, message);
    const type = message.key ? "key" : "delta";
    this.#decoder.decode(new EncodedVideoChunk({ type, timestamp: message.pts_us, data: message.payload }));
  }

  close() {
    this.#waiting.clear();
    if (this.#decoder.state !== "closed") this.#decoder.close();
  }
}

class Jpeg {
  #chain = Promise.resolve();
  #shown;
  #failed;
  #open = true;

  constructor(shown, failed) {
    this.#shown = shown;
    this.#failed = failed;
  }

  push(message) {
    const coming = createImageBitmap(new Blob([message.payload], { type: "image/jpeg" }));
    // Pictures are decoded side by side, but handed on in order.
    this.#chain = this.#chain.then(() => coming).then(
      (image) => (this.#open ? this.#shown({ image, pts_us: message.pts_us, message }) : image.close()),
      (error) => this.#failed(error),
    );
  }

  close() {
    this.#open = false;
  }
}

class Raw {
  #size;
  #shown;

  constructor(video, shown) {
    this.#size = [video.width, video.height];
    this.#shown = shown;
  }

  push(message) {
    const { buffer, byteOffset, byteLength } = message.payload;
    const image = new ImageData(new Uint8ClampedArray(buffer, byteOffset, byteLength), ...this.#size);
    this.#shown({ image, pts_us: message.pts_us, message });
  }

  close() {}
}
