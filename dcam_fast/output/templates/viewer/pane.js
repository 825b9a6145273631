// One pane: an image, the answer about it, and the map of the word that is looked at.

/** A word that can be looked at. @typedef {{target: number?, position: number?}} Selection */

const MOST_PIXELS = 1920 * 1080;  // of a drawn map; larger views are scaled up
const THUMBNAIL = 208;  // pixels of the longer side
const thumbnail = make("canvas");
const LISTED = 8;  // words named for a selection of the image
const SCORES = [
  { key: "groundedness", name: "Groundedness", title: "How much of the word's probability is lost without the place that its map points at, times how focused the map is" },
  { key: "image_share", name: "Image share", title: "The part of the word's probability that is lost without the image" },
  { key: "prompt_share", name: "Prompt share", title: "The part of the word's probability that is lost without the prompt" },
  { key: "answer_share", name: "Answer share", title: "The part of the word's probability that is lost without the other words of the answer" },
];
const same = (a, b) => a !== null && b !== null && a.target === b.target && a.position === b.position;

class Pane {
  /** @param {App} app @param {string} name  "A" or "B" */
  constructor(app, name) {
    this.app = app;
    this.name = name;
    this.run = null;
    /** @type {Selection?} */
    this.pinned = null;
    /** @type {Selection?} */
    this.pointed = null;
    this.follows = false;  // whether the map is that of the words written last
    this.rectangle = null;
    this.element = at("pane").content.firstElementChild.cloneNode(true);
    this.element.dataset.name = name;
    this.element.setAttribute("aria-label", `Explanation ${name}`);
    for (const name of ["view", "map", "cells", "brush", "caption", "hint", "clear", "prompt", "answer", "edit", "facts", "inside", "tiles"]) {
      this[name] = this.element.querySelector(`.${name}`);
    }
    this.startEdit = this.element.querySelector(".start-edit");
    this.picture = this.element.querySelector("img");
    this.element.addEventListener("focusin", () => app.activate(this));
    this.element.addEventListener("pointerdown", () => app.activate(this));
    this.listenToWords(this.answer);
    this.listenToWords(this.tiles);
    this.listenToBrush();
    this.listenToEdits();
    this.size = [0, 0];
    this.resizes = new ResizeObserver(([{ contentRect: { width, height } }]) => {
      this.size = [width, height];
      app.refresh();
    });
    this.resizes.observe(this.view);
  }

  remove() {
    this.resizes.disconnect();
    this.element.remove();
  }

  get frame() { return this.app.frame >= this.app.last ? this.run.last : Math.min(this.app.frame, this.run.last); }

  /** Shows a run, with its best word or the one given. @param {Run} run @param {Selection?} pinned */
  show(run, pinned = null) {
    const grows = run === this.run && !run.record;
    this.run = run;
    this.pointed = null;
    if (!grows) this.select(null);
    this.pinned = pinned ?? (run.best === null ? null : run.targetSelection(run.best));
    this.follows = !run.record;
    this.picture.src = run.image.src;
    this.element.style.setProperty("--ratio", run.image.width / run.image.height);
    this.view.setAttribute("aria-label", "Image. Arrow keys select a part of it, with Shift they resize the selection, Escape removes it.");
    this.prompt.textContent = run.prompt;
    this.startEdit.hidden = !this.app.live || !run.record;
    this.edit.hidden = true;
    this.buildAnswer(grows);
    this.buildTiles(grows);
    this.shownCells = null;
    this.shownMap = null;
  }

  /** @param {boolean} grows  whether the run was shown before, with fewer steps */
  buildAnswer(grows) {
    if (grows && this.parts.length === this.run.pieces.length) return;
    this.parts = this.run.pieces.map(piece => {
      if (piece.position === null) return document.createTextNode(piece.text);
      const text = make("span", { className: "piece-text" }), when = make("sub", { "aria-hidden": "true" });
      const part = make("span", { className: "piece", role: "button", tabIndex: -1, "aria-pressed": "false" }, text, when);
      part.selection = this.run.selectionOf(piece);
      return part;
    });
    // while it is being written, spaces between tokens are not known yet
    this.answer.replaceChildren(...this.parts.flatMap(part => this.run.record ? [part] : [part, " "]));
    if (!this.parts.length) this.answer.textContent = "no answer";
    this.partStates = [];
  }

  buildTiles(grows) {
    const words = this.run.record ? this.run.wordsAt(this.run.last) : this.run.steps.length ? this.run.newAt(this.run.last) : [];
    if (!grows) this.tiles.replaceChildren();
    for (const selection of words) {
      const old = [...this.tiles.children].find(tile => same(tile.selection, selection));
      old?.remove();
      this.tiles.append(this.tile(selection));
    }
    this.element.querySelector(".heading").hidden = !this.tiles.children.length;
    for (const [index, tile] of [...this.tiles.children].entries()) tile.tabIndex = index ? -1 : 0;
  }

  /** @param {Selection} selection */
  tile(selection) {
    const { run } = this, frame = run.last, target = run.targets[selection.target], name = run.nameOf(selection, frame);
    const scores = target ? [shown(target.groundedness)] : [];
    const tile = make("button", { type: "button", className: "tile", title: name, "aria-pressed": "false", "aria-label": this.description(selection) },
      make("span", { className: "thumb" }, make("img", { src: run.image.src, alt: "" }), make("img", { className: "map", alt: "" })),
      make("span", { className: "label" }, make("span", { dir: "auto" }, name), ...scores.map(text => make("span", {}, text))));
    if (target) tile.append(bar(target.groundedness));
    tile.firstChild.style.setProperty("--ratio", run.image.width / run.image.height);
    tile.selection = selection;
    tile.map = run.mapOf(selection, frame);
    this.paintTile(tile);
    return tile;
  }

  /** Thumbnails are images: a browser composes every canvas apart, in every frame. */
  paintTile(tile) {
    const { width, height } = this.run.image, scale = Math.min(1, THUMBNAIL / Math.max(width, height));
    paint(thumbnail, tile.map, this.app.table, Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1));
    tile.querySelector(".map").src = thumbnail.toDataURL();
  }

  /** A selection in words, for screen readers. */
  description(selection) {
    const target = this.run.targets[selection.target];
    if (!target) return this.run.nameOf(selection, this.run.last);
    const steps = this.run.stepsOf(selection.target);
    return [target.name, `groundedness ${shown(target.groundedness)}`, ...("image_share" in target ? [`image share ${shown(target.image_share)}`] : []),
      ...(steps.length ? [`step ${steps.join(", ")}`] : [])].join(", ");
  }

  // What is looked at

  /** What the pane shows now: a map with its name, and the selection if it is one word. */
  current() {
    const { run, frame } = this, single = selection => {
      const map = selection && run.mapOf(selection, frame);
      return map ? { map, name: run.nameOf(selection, frame), selection } : null;
    };
    return single(this.pointed) ?? (this.follows ? this.latest() : null) ?? single(this.pinned);
  }

  /** The maps of the words written last, as one. */
  latest() {
    for (let frame = this.frame; frame >= 0; frame--) {
      const words = this.run.newAt(frame), maps = words.map(word => this.run.mapOf(word, frame)).filter(map => map);
      if (maps.length) {
        const name = words.map(word => this.run.nameOf(word, frame)).join(", ");
        return { map: unionOf(maps), name, selection: words.length === 1 ? words[0] : null };
      }
      if (frame === this.run.last && this.run.steps.length && this.run.record) return null;
    }
    return null;
  }

  update() {
    if (!this.run) return;
    const now = this.current(), { run, frame } = this;
    this.updateParts(run.partsAt(frame, this.follows), now);
    for (const tile of this.tiles.children) {
      const on = same(tile.selection, now?.selection ?? null), pinned = same(tile.selection, this.pinned);
      if (tile.classList.contains("on") !== on) tile.classList.toggle("on");
      if (tile.ariaPressed !== String(pinned)) tile.ariaPressed = pinned;
    }
    this.caption.textContent = now ? now.name : run.targets.length ? "Point at a word to see where the model looked." : run.record ? "No word of this answer was explained." : "";
    this.updateFacts(now);
    this.updateInside();
    this.paintMap(now);
  }

  updateParts(parts, now) {
    const { run, frame } = this, { timed } = run;
    for (const [index, { text, state }] of parts.entries()) {
      const part = this.parts[index];
      if (state === "text") continue;
      const { target, position } = part.selection, on = now?.selection && (target !== null ? target === now.selection.target : position === now.selection.position);
      const pinned = this.pinned && target !== null && target === this.pinned.target;
      const step = timed ? run.writtenAt(position, frame) : -1;
      const known = state !== "masked" && run.mapOf(part.selection, frame) !== null;
      const inside = this.shares?.get(target ?? `at ${position}`) ?? 0;
      const key = `${text} ${state} ${on} ${pinned} ${step} ${known} ${inside}`;
      if (this.partStates[index] === key) continue;
      this.partStates[index] = key;
      part.className = ["piece", state, ...(known ? ["word"] : []), ...(on ? ["on"] : []), ...(text.trim() ? [] : ["blank"])].join(" ");
      part.firstChild.textContent = text;
      part.lastChild.textContent = step >= 0 && (known || state === "new" || !run.steps.length) ? step : "";
      part.setAttribute("aria-pressed", Boolean(pinned));
      part.setAttribute("aria-disabled", !known);
      if (state === "masked") part.setAttribute("aria-label", "masked");
      else if (known) part.setAttribute("aria-label", `${target !== null ? this.description(part.selection) : text}${state === "new" ? ", new" : ""}`);
      else part.removeAttribute("aria-label");
      const value = target === null ? null : run.targets[target].groundedness;
      part.style.setProperty("--share", value ?? 0);
      part.style.setProperty("--inside", inside);
    }
    const words = this.parts.filter(part => part.classList?.contains("word"));
    if (!words.some(part => part.tabIndex === 0)) {
      for (const part of words) part.tabIndex = part === words[0] ? 0 : -1;
    }
  }

  updateFacts(now) {
    const { run, frame } = this, selection = now?.selection ?? null, target = run.explained(frame) ? run.targets[selection?.target] : undefined;
    this.facts.hidden = !now;
    if (!now || this.shownFacts === now.name + frame + this.run.targets.length) return;
    this.shownFacts = now.name + frame + this.run.targets.length;
    const title = make("h2", { dir: "auto" }, target ? this.run.wordOf(target) : now.name);
    if (!target) {
      const written = selection ? run.writtenAt(selection.position, frame) : frame;
      this.facts.replaceChildren(title, make("p", { className: "note" }, run.explained(frame) ? "Maps of several words: the strongest at each place." : `Written at step ${written}. The map is of that moment.`));
      return;
    }
    const rows = SCORES.filter(({ key }, index) => index === 0 || target[key] !== undefined).map(({ key, name, title }) =>
      make("div", { className: "score", title }, make("span", {}, name), bar(target[key]), make("span", { className: "number" }, shown(target[key]))));
    const steps = run.stepsOf(selection.target), rest = [`peak ${shown(target.peak, 3)}`, `spread ${shown(target.spread)}`];
    if (steps.length) rest.unshift(`written at step ${steps.join(", ")}`);
    if (target.instead) title.append(make("small", {}, ` rather than ${target.instead}`));
    this.facts.replaceChildren(title, ...rows, make("p", { className: "note" }, rest.join(" · ")), ...this.alternatives(target));
  }

  /** The most confident tokens at each position of a target. */
  alternatives(target) {
    const positions = (target.alternatives ?? []).map((items, index) => [items, target.positions[index]]);
    const tokens = new Map(this.run.record.tokens.map(token => [token.position, token]));
    return positions.filter(([items]) => items.length).map(([items, position]) => {
      const rows = items.map(item => {
        const own = tokens.get(position)?.id === item.id, text = make("span", { dir: "auto", className: own ? "own" : "" }, item.text.trim() || item.text);
        const row = make("li", {}, text, bar(item.probability), make("span", { className: "number" }, percent(item.probability)));
        if (this.app.live && !own) {
          const ask = make("button", { type: "button", className: "link", "aria-label": `Explain ${target.text} rather than ${item.text.trim()}` }, "why not?");
          ask.addEventListener("click", () => this.app.live.contrast(this, target, item.text.trim()));
          row.append(ask);
        }
        return row;
      });
      const heading = target.positions.length > 1 ? `Most confident at ${tokens.get(position)?.text.trim() ?? position}` : "Most confident here";
      return make("div", { className: "alternatives" }, make("h3", { dir: "auto" }, heading), make("ol", {}, ...rows));
    });
  }

  // Drawing

  paintMap(now) {
    this.map.hidden = !now;
    const ratio = devicePixelRatio || 1, [width, height] = this.size.map(side => Math.round(side * ratio));
    if (!now || !width || !height) return;
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
    const size = [Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1)];
    const key = [now.map.set.values, now.map.index, this.app.table, ...size];
    if (!this.shownMap || key.some((value, index) => value !== this.shownMap[index])) paint(this.map, now.map, this.app.table, ...size);
    this.shownMap = key;
    const cells = `${width} ${height}`;
    this.cells.hidden = !this.app.showsCells;
    if (this.app.showsCells && this.shownCells !== cells) paintCells(this.cells, now.map.set, width, height);
    this.shownCells = this.app.showsCells ? cells : null;
  }

  paintTiles() {
    for (const tile of this.tiles.children) this.paintTile(tile);
  }

  /** The image with the map over it, at the image's size, blended as `dcam_fast.ops.overlay` does. @returns {HTMLCanvasElement} */
  compose() {
    const { naturalWidth: width, naturalHeight: height } = this.picture, canvas = make("canvas", { width, height }), now = this.current();
    const context = canvas.getContext("2d"), alpha = this.app.opacity;
    context.drawImage(this.picture, 0, 0);
    if (!now) return canvas;
    const map = make("canvas"), picture = context.getImageData(0, 0, width, height), { data } = picture;
    paint(map, now.map, this.app.table, width, height);
    const colors = map.getContext("2d").getImageData(0, 0, width, height).data;
    for (let i = 0; i < data.length; i++) {
      if (i % 4 !== 3 && colors[i | 3]) data[i] = Math.floor((1 - alpha) * data[i] + alpha * colors[i] + 0.5);
    }
    context.putImageData(picture, 0, 0);
    return canvas;
  }

  // Words

  /** Pins a word, or releases it. @param {Selection} selection */
  pin(selection) {
    this.pinned = !this.follows && same(selection, this.pinned) ? null : selection;
    this.follows = false;
    this.pointed = null;
    this.app.refresh();
  }

  point(selection) {
    if (same(this.pointed, selection) || this.pointed === selection) return;
    this.pointed = selection;
    this.app.refresh();
  }

  /** @param {HTMLElement} list  whose children are words */
  listenToWords(list) {
    const wordOf = event => event.target.closest(".word, .tile");
    list.addEventListener("pointerover", event => { if (event.pointerType === "mouse") this.point(wordOf(event)?.selection ?? null); });
    list.addEventListener("pointerleave", () => this.point(null));
    list.addEventListener("focusin", event => { if (event.target.matches(":focus-visible")) this.point(wordOf(event)?.selection ?? null); });
    list.addEventListener("focusout", () => this.point(null));
    list.addEventListener("click", event => { if (wordOf(event)) this.pin(wordOf(event).selection); });
    list.addEventListener("keydown", event => {
      const word = wordOf(event), words = [...list.querySelectorAll(".word, .tile")], here = words.indexOf(word);
      if (here < 0) return;
      const forward = getComputedStyle(list).direction === "rtl" ? "ArrowLeft" : "ArrowRight", backward = forward === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
      const next = { [forward]: here + 1, ArrowDown: here + 1, [backward]: here - 1, ArrowUp: here - 1, Home: 0, End: words.length - 1 }[event.key];
      if (next !== undefined) {
        for (const item of words) item.tabIndex = -1;
        const focused = words[(next + words.length) % words.length];
        focused.tabIndex = 0;
        focused.focus();
      } else if (event.key === "Escape") {
        this.pinned = null;
        this.point(null);
        this.app.refresh();
      } else if (word.classList.contains("piece") && (event.key === "Enter" || event.key === " ")) {
        this.pin(word.selection);
      } else return;
      event.preventDefault();
    });
  }

  // A part of the image

  listenToBrush() {
    let start = null;
    const place = event => {
      const box = this.view.getBoundingClientRect(), inside = (value, size) => Math.min(Math.max(value / size, 0), 1);
      return [inside(event.clientX - box.left, box.width) * this.run.image.width, inside(event.clientY - box.top, box.height) * this.run.image.height];
    };
    this.view.addEventListener("pointerdown", event => {
      if (event.button || !this.run) return;
      start = place(event);
      this.view.setPointerCapture(event.pointerId);
    });
    this.view.addEventListener("pointermove", event => {
      if (!start) return;
      const [x, y] = place(event), rectangle = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
      const enough = this.run.image.width / 100;
      this.select(rectangle[2] - rectangle[0] > enough && rectangle[3] - rectangle[1] > enough ? rectangle : null);
    });
    const end = event => {
      if (!start) return;
      const [x, y] = place(event);
      if (x === start[0] && y === start[1]) this.select(null);
      start = null;
      this.announceInside();
    };
    this.view.addEventListener("pointerup", end);
    this.view.addEventListener("pointercancel", () => { start = null; });
    this.view.addEventListener("keydown", event => this.brushByKey(event));
    this.clear.addEventListener("click", () => {
      this.select(null);
      this.view.focus();
    });
    this.inside.addEventListener("click", event => {
      const row = event.target.closest("button");
      if (row) this.pin(row.selection);
    });
  }

  brushByKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, move = moves[event.key];
    if (event.key === "Escape") this.select(null);
    if (!move || !this.run) return;
    event.preventDefault();
    const { width, height } = this.run.image;
    if (!this.rectangle) this.select([width / 3, height / 3, 2 * width / 3, 2 * height / 3]);
    else {
      const [x, y] = [move[0] * width / 20, move[1] * height / 20], [left, top, right, bottom] = this.rectangle;
      const within = (value, low, high) => Math.min(Math.max(value, low), high);
      if (event.shiftKey) this.select([left, top, within(right + x, left + width / 20, width), within(bottom + y, top + height / 20, height)]);
      else {
        const newLeft = within(left + x, 0, width - (right - left)), newTop = within(top + y, 0, height - (bottom - top));
        this.select([newLeft, newTop, newLeft + right - left, newTop + bottom - top]);
      }
    }
    this.announceInside();
  }

  /** @param {number[]?} rectangle  left, top, right, bottom in pixels of the image */
  select(rectangle) {
    this.rectangle = rectangle;
    this.brush.hidden = this.clear.hidden = !rectangle;
    this.hint.hidden = !this.clear.hidden;
    this.shares = null;
    if (rectangle) {
      const { width, height } = this.run.image, [left, top, right, bottom] = rectangle;
      const sides = { left: left / width, top: top / height, width: (right - left) / width, height: (bottom - top) / height };
      for (const [side, share] of Object.entries(sides)) this.brush.style[side] = `${100 * share}%`;
    }
    this.app.refresh();
  }

  /** The words that look into the selected part, by the share of their maps in it. */
  looking() {
    const words = this.run.wordsAt(this.frame).map(word => ({ word, share: shareInside(this.run.mapOf(word, this.frame), this.rectangle) }));
    return words.sort((a, b) => b.share - a.share);
  }

  updateInside() {
    this.inside.hidden = !this.rectangle;
    const key = this.rectangle && `${this.rectangle} ${this.frame} ${this.run.steps.length}`;
    if (this.shownInside === key) return;
    this.shownInside = key;
    if (!this.rectangle) return;
    const looking = this.looking();
    this.shares = new Map(looking.map(({ word, share }) => [word.target ?? `at ${word.position}`, share]));
    this.inside.querySelector("ol").replaceChildren(...looking.slice(0, LISTED).map(({ word, share }) => {
      const button = make("button", { type: "button", className: "link", dir: "auto" }, this.run.nameOf(word, this.frame));
      button.selection = word;
      return make("li", {}, button, bar(share), make("span", { className: "number" }, percent(share)));
    }));
    this.app.refresh();
  }

  announceInside() {
    if (!this.rectangle) return;
    const names = this.looking().slice(0, 3).map(({ word, share }) => `“${this.run.nameOf(word, this.frame)}” ${percent(share)}`);
    say(names.length ? `Looked at the selection: ${names.join(", ")}.` : "No word was explained.");
  }

  // The answer as given

  listenToEdits() {
    const text = this.edit.querySelector("textarea");
    this.startEdit.addEventListener("click", () => {
      text.value = this.run.record.answer;
      this.edit.hidden = false;
      this.startEdit.hidden = true;
      text.focus();
      this.edit.scrollIntoView({ block: "nearest" });
    });
    const close = () => {
      this.edit.hidden = true;
      this.startEdit.hidden = false;
      this.startEdit.focus({ preventScroll: true });
    };
    this.edit.querySelector(".cancel").addEventListener("click", close);
    this.edit.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
    this.edit.addEventListener("submit", async event => {
      event.preventDefault();
      if (!text.value.trim()) return;
      if (await this.app.live.explainAnswer(this, text.value)) close();
    });
  }
}
