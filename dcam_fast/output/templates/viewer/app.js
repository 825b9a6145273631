// The page: one or two panes, one timeline, and one way of drawing.

const SETTLED = 120;  // milliseconds without a change of colors after which thumbnails follow

class App {
  /** @param {{live: object?, colormaps: Record<string, string>, record: object?}} data */
  constructor(data) {
    this.colors = Object.fromEntries(Object.entries(data.colormaps).map(([name, text]) => [name, bytesOf(text)]));
    this.frame = 0;
    this.showsCells = false;
    this.refresh = oncePerFrame(() => this.update());
    this.panes = [];
    /** @type {Live?} */
    this.live = null;
    this.timeline = new Timeline(this);
    this.panes.push(new Pane(this, "A"));
    this.active = this.panes[0];
    at("panes").append(this.active.element);
    at("colormap").append(...Object.keys(data.colormaps).map(name => make("option", { value: name }, name)));
    this.listen();
    listenToExports(this);
    this.redraw();
    if (data.live) this.live = new Live(this, data.live);
    document.body.classList.toggle("is-live", this.live !== null);
    this.layout();
  }

  get last() { return Math.max(0, ...this.panes.map(pane => pane.run?.last ?? 0)); }

  get opacity() { return at("opacity").value / 100; }

  listen() {
    for (const id of ["colormap", "threshold", "opacity"]) at(id).addEventListener("input", () => this.redraw());
    at("grid").addEventListener("change", () => {
      this.showsCells = at("grid").checked;
      this.refresh();
    });
    at("compare").addEventListener("click", () => this.compare(this.panes.length === 1));
    at("about").addEventListener("toggle", () => this.refresh());
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
    at("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      at("theme").setAttribute("aria-pressed", isDark());
    });
    at("theme").setAttribute("aria-pressed", isDark());
  }

  /** Draws all maps with the chosen colors, opacity and threshold. */
  redraw() {
    const rgb = this.colors[at("colormap").value], threshold = at("threshold").value / 100, key = `${at("colormap").value} ${threshold}`;
    document.documentElement.style.setProperty("--opacity", this.opacity);
    at("opacity-is").textContent = percent(this.opacity);
    at("threshold-is").textContent = percent(threshold);
    if (key === this.tableKey) return;
    this.tableKey = key;
    this.table = colorTable(rgb, threshold);
    const stops = Array.from({ length: 16 }, (_, index) => `rgb(${rgb.slice(51 * index, 51 * index + 3).join(" ")})`);
    at("scale").style.background = `linear-gradient(90deg, ${stops})`;
    at("scale").style.setProperty("--threshold", threshold);
    this.refresh();
    clearTimeout(this.repaints);
    this.repaints = setTimeout(() => { for (const pane of this.panes) if (pane.run) pane.paintTiles(); }, SETTLED);
  }

  /** Shows a run in a pane, at its last frame, and again where it is shown already. @param {Pane} pane @param {Run} run @param {Selection?} pinned */
  open(pane, run, pinned = null) {
    this.timeline.play(false);
    const chosen = this.panes.includes(pane) ? pane : this.active;  // the pane may have been closed meanwhile
    for (const each of this.panes) if (each === chosen || each.run === run) each.show(run, pinned);
    this.frame = this.last;
    this.layout();
  }

  /** Moves all panes to a frame, where the words written last are shown. */
  seek(frame) {
    this.frame = Math.min(Math.max(frame, 0), this.last);
    for (const pane of this.panes) pane.follows = true;
    this.refresh();
  }

  activate(pane) {
    if (this.active === pane) return;
    this.active = pane;
    this.layout();
  }

  /** Opens or closes the second pane. */
  compare(two) {
    if (two === (this.panes.length === 2)) return;
    if (two) {
      const pane = new Pane(this, "B"), { run } = this.panes[0];
      this.panes.push(pane);
      at("panes").append(pane.element);
      const others = run ? run.targets.map((_, index) => index).filter(index => index !== this.panes[0].pinned?.target) : [];
      if (run) pane.show(run, others.length ? run.targetSelection(others[0]) : null);
      this.active = pane;
      if (this.live) say("The next explanation appears in pane B. Click pane A to explain there.");
    } else {
      const kept = this.active.run ? this.active : this.panes[0];
      this.panes.find(pane => pane !== kept).remove();
      this.panes = [kept];
      this.active = kept;
      this.frame = Math.min(this.frame, this.last);
    }
    this.layout();
  }

  /** The other pane, opened if there is only one. */
  beside(pane) {
    this.compare(true);
    this.active = this.panes.find(other => other !== pane);
    this.layout();
    return this.active;
  }

  layout() {
    at("panes").classList.toggle("two", this.panes.length === 2);
    at("compare").setAttribute("aria-pressed", this.panes.length === 2);
    for (const pane of this.panes) {
      pane.element.classList.toggle("active", pane === this.active);
      pane.element.hidden = !pane.run && this.panes.length === 1;
    }
    const any = this.panes.some(pane => pane.run);
    at("empty").hidden = any;
    for (const element of document.querySelectorAll(".settings, #about, .actions > #compare, #export")) element.hidden = !any;
    this.refresh();
  }

  update() {
    for (const pane of this.panes) pane.update();
    this.timeline.update();
    this.describe();
  }

  /** How the explanation of the active pane was made: sentences first, then data. */
  describe() {
    const record = this.active.run?.record;
    if (!at("about").open || this.described === record) return;
    this.described = record;
    const { claims = {}, ...data } = record?.provenance ?? {};
    const sentences = Object.entries(claims).flatMap(([name, claim]) =>
      [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, claim.text)]);
    at("claims").replaceChildren(...(sentences.length ? [make("dl", {}, ...sentences)] : []), factTable(data));
  }
}

const data = JSON.parse(at("data").textContent), plain = at("plain");
at("viewer").hidden = false;
const app = new App(data);
if (data.record) {
  const picture = at("image");
  app.open(app.active, new Run({ src: picture.src, ...data.record.image }, { prompt: data.record.prompt }, data.record));
}
plain?.remove();
