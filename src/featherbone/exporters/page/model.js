/** The network in the browser: on WASM, and on WebGPU once that has proven to be right and faster. */

const HERE = new URL("./", import.meta.url).href;
const TOLERANCE = 1e-3;

/** Threads that WASM may use: several only where the host's headers allow them. */
export function threads(scope = globalThis) {
  return scope.crossOriginIsolated ? Math.max(Math.min(4, (scope.navigator?.hardwareConcurrency ?? 2) >> 1), 1) : 1;
}

/** Whether outputs are the same but for rounding. */
export function agree(expected, got) {
  return Object.entries(expected).every(([name, { data }]) => {
    const other = got[name]?.data;
    if (other?.length !== data.length) return false;
    let [most, worst] = [0, 0];
    for (let i = 0; i < data.length; i++) {
      most = Math.max(most, Math.abs(Number(data[i])));
      worst = Math.max(worst, Math.abs(Number(data[i]) - Number(other[i])));
    }
    return worst <= TOLERANCE * (1 + most); // false for NaN, too
  });
}

/** A model that runs one input at a time. */
export class Model {
  /** The model of a manifest; `told` hears the share that is loaded. */
  static async load(manifest, told = () => {}) {
    const bytes = await download(manifest.file, told);
    const processor = await open("ort.wasm.min.mjs", "wasm", bytes, manifest.input);
    return new Model(manifest, bytes, processor);
  }

  constructor(manifest, bytes, processor) {
    Object.assign(this, { manifest, bytes, processor, graphics: null, last: Promise.resolve() });
    this.tried = false;
  }

  /** Where it runs, in words. */
  get runtime() {
    const count = threads();
    return this.graphics ? "WebGPU" : `WASM, ${count} ${count === 1 ? "thread" : "threads"}`;
  }

  /** The raw outputs {name: {data, dims}} for values of the input, and the milliseconds that took. */
  run(values) {
    const turn = this.last.then(() => this.#run(values));
    this.last = turn.catch(() => {});
    return turn;
  }

  async #run(values) {
    if (this.graphics) {
      try {
        return await this.graphics(values);
      } catch {
        this.graphics = null; // a lost device; WASM goes on
      }
    }
    return this.processor(values);
  }

  /** Take WebGPU from now on if there is one that says the same in less time; true if so. */
  async improve(values) {
    if (this.tried || !globalThis.navigator?.gpu) return false;
    this.tried = true;
    try {
      if (!(await navigator.gpu.requestAdapter())) return false;
      const graphics = await open("ort.webgpu.min.mjs", "webgpu", this.bytes, this.manifest.input);
      await graphics(values); // the first run compiles
      const [slow, fast] = [await this.run(values), await graphics(values)];
      if (agree(slow.outputs, fast.outputs) && fast.milliseconds < slow.milliseconds) this.graphics = graphics;
    } catch {
      // whatever is wrong with it, WASM works
    }
    this.bytes = null;
    return this.graphics !== null;
  }
}

async function open(bundle, provider, bytes, input) {
  const ort = await import(`./${bundle}`);
  Object.assign(ort.env.wasm, { wasmPaths: HERE, numThreads: threads() });
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 3 });
  return async (values) => {
    const tensor = new ort.Tensor(input.dtype, values, [1, 3, input.height, input.width]);
    const start = performance.now();
    const outputs = await session.run({ [input.name]: tensor });
    return { outputs, milliseconds: performance.now() - start };
  };
}

async function download(file, told) {
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
    if (total) told(Math.min(size / total, 1));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
