/** The three graphs in the browser: pre.onnx and decode.onnx on WASM, the network on WASM or WebGPU. */

const HERE = new URL("./", import.meta.url).href;
const TOLERANCE = 1e-3;
const THREADS = globalThis.crossOriginIsolated ? Math.max(Math.min(4, (navigator.hardwareConcurrency ?? 2) >> 1), 1) : 1;

/** A model that runs one image at a time. */
export class Model {
  /** The model of a manifest; `progress` is called with the share that is loaded. */
  static async load(manifest, progress) {
    const model = new Model();
    model.pre = await open(await download("pre.onnx"), "wasm");
    model.decode = await open(await download("decode.onnx"), "wasm");
    model.network = await download(manifest.file, progress);
    model.processor = await open(model.network, "wasm");
    return model;
  }

  graphics = null;
  tried = false;
  #last = Promise.resolve();

  /** Where the network runs, in words. */
  get runtime() {
    return this.graphics ? "WebGPU" : `WASM, ${THREADS} ${THREADS === 1 ? "thread" : "threads"}`;
  }

  /** The outputs of decode.onnx for RGBA pixels {data, width, height}, and the milliseconds that the network took. */
  run(image) {
    const turn = this.#last.then(() => this.#run(image));
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #run({ data, width, height }) {
    const pixels = { type: "uint8", data: new Uint8Array(data.buffer), dims: [height, width, 4] };
    const { images, inner } = await this.pre({ image: pixels });
    const { outputs: raw, milliseconds } = await timed((tensors) => this.#infer(tensors), { images });
    const size = { type: "int64", data: BigInt64Array.of(BigInt(height), BigInt(width)), dims: [2] };
    return { images, outputs: await this.decode({ ...raw, size, inner }), milliseconds };
  }

  async #infer(tensors) {
    try {
      if (this.graphics) return await this.graphics(tensors);
    } catch {
      this.graphics = null; // a lost device; WASM continues
    }
    return this.processor(tensors);
  }

  /** Use WebGPU from now on if there is one that gives the same outputs in less time; true if so. */
  async improve(images) {
    if (this.tried || !navigator.gpu) return false;
    this.tried = true;
    try {
      if (!(await navigator.gpu.requestAdapter())) return false;
      const graphics = await open(this.network, "webgpu");
      await graphics({ images }); // the first run compiles
      const [slow, fast] = [await timed(this.processor, { images }), await timed(graphics, { images })];
      if (agree(slow.outputs, fast.outputs) && fast.milliseconds < slow.milliseconds) this.graphics = graphics;
    } catch {
      // whatever is wrong with it, WASM works
    }
    this.network = null;
    return this.graphics !== null;
  }
}

/** A graph as a function of named tensors {type, data, dims}, of which it takes those that are its inputs. */
async function open(bytes, provider) {
  const ort = await import(provider === "webgpu" ? "./ort.webgpu.min.mjs" : "./ort.wasm.min.mjs");
  Object.assign(ort.env.wasm, { wasmPaths: HERE, numThreads: THREADS });
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 3 });
  return (tensors) => {
    const inputs = session.inputNames.map((name) => [name, tensors[name]]);
    return session.run(Object.fromEntries(inputs.map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)])));
  };
}

async function timed(graph, tensors) {
  const start = performance.now();
  const outputs = await graph(tensors);
  return { outputs, milliseconds: performance.now() - start };
}

/** Whether outputs are the same except for rounding. */
function agree(expected, got) {
  return Object.entries(expected).every(([name, { data }]) => {
    const [other, size] = [got[name].data, data.reduce((largest, value) => Math.max(largest, Math.abs(Number(value))), 0)];
    const near = (value, i) => Math.abs(Number(value) - Number(other[i])) <= TOLERANCE * (1 + size); // false for NaN, too
    return other.length === data.length && data.every(near);
  });
}

async function download(file, progress = () => {}) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file} was not found beside this page`);
  const total = Number(answer.headers.get("Content-Length"));
  const parts = [];
  let size = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    if (total) progress(Math.min(size / total, 1));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
