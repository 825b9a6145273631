// The timeline: every denoising step, and when each word was written.

const STEPS_PER_SECOND = 2;

class Timeline {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.playing = false;
    at("step").addEventListener("input", () => this.go(+at("step").value));
    at("back").addEventListener("click", () => this.go(app.frame - 1));
    at("forward").addEventListener("click", () => this.go(app.frame + 1));
    at("play").addEventListener("click", () => this.play(!this.playing));
    at("timeline").addEventListener("keydown", event => {
      if (event.key === " " && event.target === at("step")) {
        this.play(!this.playing);
        event.preventDefault();
      }
    });
  }

  /** Moves to a frame and stops playing. */
  go(frame) {
    this.play(false);
    this.app.seek(frame);
  }

  play(playing) {
    if (playing === this.playing) return;
    this.playing = playing;
    at("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    at("timeline").classList.toggle("playing", playing);
    if (!playing) return;
    if (this.app.frame >= this.app.last) this.app.seek(0);
    let due = performance.now() + this.pause;
    const tick = now => {
      if (!this.playing) return;
      if (now >= due) {
        this.app.seek(this.app.frame + 1);
        due = now + this.pause;
      }
      if (this.app.frame >= this.app.last) this.play(false);
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** Milliseconds that a frame stays. */
  get pause() { return 1000 / STEPS_PER_SECOND / +at("speed").value; }

  update() {
    const { app } = this, pane = [app.active, ...app.panes].find(item => item.run?.timed), slider = at("step");
    at("timeline").hidden = !pane || app.last === 0;
    if (at("timeline").hidden) return;
    slider.max = app.last;
    slider.value = app.frame;
    const label = pane.run.label(pane.frame);
    slider.setAttribute("aria-valuetext", label);
    at("step-is").textContent = label;
    at("back").disabled = app.frame <= 0;
    at("forward").disabled = app.frame >= app.last;
    this.updateDots(pane);
  }

  /** A point for each word: when it was written, and how grounded it is; a ring for its image share. */
  updateDots(pane) {
    const { run } = pane, key = [run, run.record, this.app.last];
    if (!this.shown || key.some((value, index) => value !== this.shown[index])) {
      this.shown = key;
      at("dots").replaceChildren(...run.targets.flatMap((target, index) => {
        const step = run.stepsOf(index).at(-1);
        if (step === undefined) return [];
        return [["image_share", "ring"], ["groundedness", "dot"]].filter(([name]) => typeof target[name] === "number").map(([name, className]) => {
          const dot = make("i", { className, title: `${target.name}: ${name.replace("_", " ")} ${shown(target[name])}` });
          dot.style.setProperty("--at", step / this.app.last);
          dot.style.setProperty("--share", target[name]);
          dot.target = index;
          return dot;
        });
      }));
      at("dots").hidden = !at("dots").children.length;
    }
    const selected = pane.current()?.selection?.target ?? null;
    for (const dot of at("dots").children) dot.classList.toggle("on", dot.target === selected);
  }
}
