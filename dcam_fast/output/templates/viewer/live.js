// Asking a service: choosing an image, watching the answer being written, and asking again with a change.

/** An image as a data URL, with its size. @param {Blob} blob @returns {Promise<{src: string, width: number, height: number}>} */
async function imageOf(blob) {
  const src = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
  const picture = make("img", { src });
  try {
    await picture.decode();
  } catch {
    throw new Error("This browser cannot show the file as an image.");
  }
  return { src, width: picture.naturalWidth, height: picture.naturalHeight };
}

/**
 * The events of a `text/event-stream`.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{event: string, data: string}>}
 */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", event = "message", data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    text = lines.pop();
    for (const line of lines) {
      const [, name, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (!line && data.length) yield { event, data: data.join("\n") };
      if (!line) [event, data] = ["message", []];
      else if (name === "event") event = content;
      else if (name === "data") data.push(content);
    }
  }
}

class Live {
  /** @param {App} app @param {{model: string, prompt: string, methods: Record<string, boolean>}} settings */
  constructor(app, settings) {
    this.app = app;
    this.settings = settings;
    this.image = null;
    /** @type {AbortController?} */
    this.running = null;
    at("model").textContent = settings.model;
    at("prompt").value = settings.prompt;
    at("method").append(...Object.keys(settings.methods).map(name => make("option", { value: name }, name.replaceAll("_", " "))));
    at("method").value = "default";
    this.listen();
    this.showSamples().catch(error => say(error.message, true));
    const id = new URLSearchParams(location.search).get("run");
    if (id) this.open(id).catch(error => say(error.message, true));
  }

  listen() {
    at("ask").addEventListener("submit", event => {
      event.preventDefault();
      this.ask();
    });
    at("prompt").addEventListener("keydown", event => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      at("ask").requestSubmit();
    });
    at("cancel").addEventListener("click", () => this.running?.abort());
    at("file").addEventListener("change", () => this.choose(at("file").files[0]));
    addEventListener("paste", event => {
      const file = [...event.clipboardData.files].find(item => item.type.startsWith("image/"));
      if (file) this.choose(file);
    });
    addEventListener("dragover", event => {
      event.preventDefault();
      at("drop").classList.add("over");
    });
    addEventListener("dragleave", () => at("drop").classList.remove("over"));
    addEventListener("drop", event => {
      event.preventDefault();
      at("drop").classList.remove("over");
      if (event.dataTransfer.files[0]) this.choose(event.dataTransfer.files[0]);
    });
  }

  /** @param {Blob?} blob */
  async choose(blob) {
    if (!blob) return;
    try {
      this.image = await imageOf(blob);
      at("chosen").src = this.image.src;
      at("chosen").hidden = false;
      at("drop").classList.add("filled");
      at("drop-text").replaceChildren("Another image");
      say("");
    } catch (error) {
      say(error.message, true);
    }
  }

  async showSamples() {
    const { data: samples } = await (await this.request("v1/samples")).json();
    at("samples").replaceChildren(...await Promise.all(samples.map(async ({ name }, index) => {
      const blob = await (await this.request(`v1/samples/${index}.png`)).blob();
      const button = make("button", { type: "button", "aria-label": name, title: name }, make("img", { src: URL.createObjectURL(blob), alt: "" }));
      button.addEventListener("click", () => this.choose(blob));
      return button;
    })));
  }

  // Requests

  /** @param {string} path @param {object?} body  sent as JSON; without one the request is a GET */
  async request(path, body = null, signal = null) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    if (response.ok) return response;
    if (response.status === 401) at("key-field").hidden = false;
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message ?? `The service answered with status ${response.status}.`);
  }

  /** What the form asks for. */
  get asked() {
    const number = id => at(id).value === "" ? {} : { [id]: +at(id).value };
    const generation = { ...number("steps"), ...number("temperature"), ...number("seed") };
    return { prompt: at("prompt").value, method: at("method").value, targets: at("targets").value, ...(Object.keys(generation).length ? { generation } : {}) };
  }

  async ask() {
    if (this.running) return;
    if (!this.image) {
      say("Choose an image first.", true);
      at("file").focus();
      return;
    }
    const request = this.asked;
    await this.explain(this.app.active, this.image, request, this.settings.methods[request.method]);
  }

  /** Explains an answer that the user wrote, in the other pane. */
  async explainAnswer(pane, answer) {
    const { targets, ...request } = pane.run.request;
    return this.explain(this.app.beside(pane), pane.run.image, { ...request, answer, targets: typeof targets === "string" ? targets : "content" }, false);
  }

  /** Explains why a word was written rather than another, in the other pane. */
  async contrast(pane, target, instead) {
    const { answer, ...request } = pane.run.request, { tokens } = pane.run.record, steps = tokens.map(token => token.step);
    const given = { tokens: tokens.map(token => token.id), ...(steps.includes(null) ? {} : { steps }) };
    await this.explain(this.app.beside(pane), pane.run.image, { ...request, ...given, targets: [{ word: pane.run.wordOf(target), instead }] }, false);
  }

  /**
   * Sends a request and shows what comes back.
   * @param {Pane} pane @param {boolean} streams  whether step by step
   * @returns {Promise<boolean>} whether an explanation came back
   */
  async explain(pane, image, request, streams) {
    if (this.running) {
      say("An explanation is running. Cancel it first.", true);
      return false;
    }
    const run = new Run(image, request), body = { ...request, image: image.src };
    this.running = new AbortController();
    this.busy(true);
    say(streams ? "Waiting for the first step." : "Explaining.");
    try {
      if (streams) await this.watch(pane, run, body);
      else run.finish(await (await this.request("v1/explanations", body, this.running.signal)).json());
      this.app.open(pane, run);
      if (!streams) this.reveal(pane);
      say(`Explained ${run.targets.length} ${run.targets.length === 1 ? "word" : "words"}.`);
      if (run.record.id) history.replaceState(null, "", `?run=${encodeURIComponent(run.record.id)}`);
      return true;
    } catch (error) {
      if (error.name === "AbortError") say(run.steps.length ? `Canceled after step ${run.lastStep}.` : "Canceled.");
      else say(error.message, true);
      return false;
    } finally {
      this.running = null;
      this.busy(false);
    }
  }

  /** Shows each step as it comes. */
  async watch(pane, run, body) {
    const response = await this.request("v1/explanations/stream", body, this.running.signal);
    for await (const { event, data } of eventsOf(response.body)) {
      const value = JSON.parse(data);
      if (event === "error") throw new Error(value.error.message);
      if (event === "explanation") return run.finish(value);
      if (event !== "step") continue;
      run.add(value);
      this.app.open(pane, run);
      if (run.steps.length === 1) this.reveal(pane);
      const masked = value.canvas.filter(({ text }) => text === null).length;
      say(`Step ${value.index}: ${value.tokens.map(token => `“${token.text.trim()}”`).join(", ") || "no new words"}${masked ? `; ${masked} masked` : ""}`);
    }
    throw new Error("The service ended the stream before the explanation.");
  }

  /** Scrolls to a pane unless all of its image can be seen. */
  reveal(pane) {
    const { top, bottom } = pane.view.getBoundingClientRect();
    if (top < 0 || bottom > innerHeight) pane.element.scrollIntoView();
  }

  busy(isBusy) {
    at("submit").hidden = isBusy;
    at("cancel").hidden = !isBusy;
    if (isBusy) at("cancel").focus({ preventScroll: true });
    else if (document.activeElement === document.body) at("submit").focus({ preventScroll: true });
    document.body.classList.toggle("busy", isBusy);
  }

  // Earlier runs

  /** Opens a run that the service remembers. */
  async open(id) {
    const record = await (await this.request(`v1/runs/${encodeURIComponent(id)}`)).json();
    const image = await imageOf(await this.fileOf({ record: { id } }, "image.png"));
    const method = record.provenance.method in this.settings.methods ? record.provenance.method : "default";
    this.app.open(this.app.active, new Run(image, { prompt: record.prompt, method, targets: "content" }, record));
    at("prompt").value = record.prompt;
  }

  /** A file of a run. @returns {Promise<Blob>} */
  async fileOf(run, name) {
    if (!run?.record?.id) throw new Error("The service does not keep this run.");
    return (await this.request(`v1/runs/${encodeURIComponent(run.record.id)}/${name}`)).blob();
  }

  linkTo(run) {
    if (!run?.record?.id) throw new Error("The service does not keep this run.");
    return new URL(`?run=${encodeURIComponent(run.record.id)}`, location.href).href;
  }
}
