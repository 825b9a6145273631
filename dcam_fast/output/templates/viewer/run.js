// A run: an image, the answer about it and its maps, at each moment of the timeline.

/**
 * One denoising step, as the service sends it.
 * @typedef {object} StepOf
 * @property {number} index
 * @property {{text: string?}[]} canvas  one for each position of the answer; null: masked
 * @property {{position: number, id: number, text: string}[]} tokens  that the step wrote
 * @property {MapSet} maps  of these tokens
 */

/** A part of the answer as it stands: "text" belongs to no token. @typedef {{text: string, state: "masked"|"new"|"settled"|"text"}} Part */

class Run {
  /**
   * @param {{src: string, width: number, height: number}} image
   * @param {object} request  what was asked: prompt, method, and so on
   * @param {object?} record  of the explanation; null while the answer is being written
   */
  constructor(image, request, record = null) {
    this.image = image;
    this.request = request;
    /** @type {StepOf[]} */
    this.steps = [];
    this.record = null;
    /** @type {MapSet?} */
    this.maps = null;
    /** @type {{text: string, position: number?, target: number?}[]} */
    this.pieces = [];
    this.stepAt = new Map();
    this.lastOfTokens = 0;
    this.hasSteps = false;
    if (record) this.finish(record);
  }

  /** Adds what the service sends for a denoising step. */
  add(event) {
    this.steps.push({ ...event, maps: mapSet(event.maps, event.boxes, this.image) });
    this.pieces = event.canvas.map((_, position) => ({ text: "", position, target: null }));
  }

  /** Sets the explanation of the finished answer. */
  finish(record) {
    this.record = record;
    this.maps = mapSet(record.maps, record.boxes, record.image);
    this.pieces = record.pieces.map(([text, position, target]) => ({ text, position, target }));
    this.stepAt = new Map(record.tokens.map(token => [token.position, token.step]));
    this.lastOfTokens = Math.max(0, ...this.stepAt.values());
    this.hasSteps = record.tokens.some(token => token.step !== null);
  }

  get prompt() { return this.record ? this.record.prompt : this.request.prompt; }

  get targets() { return this.record ? this.record.targets : []; }

  /** Whether the steps of the answer are known. */
  get timed() { return this.steps.length > 0 || this.hasSteps; }

  /** The number of the last denoising step. */
  get lastStep() { return this.steps.length ? this.steps.length - 1 : this.lastOfTokens; }

  /** The last frame. Streamed and finished runs have one more than steps: the explanation of the whole answer. */
  get last() { return this.lastStep + (this.steps.length && this.record ? 1 : 0); }

  /** Whether a frame shows the maps of the explanation, not those of a step. */
  explained(frame) { return this.record !== null && (!this.steps.length || frame === this.last); }

  /** @param {number} frame @returns {string} */
  label(frame) {
    return this.steps.length && this.explained(frame) ? "whole answer" : `step ${frame} of ${this.lastStep}`;
  }

  /** The step that wrote a position last, at a frame; -1 while it is masked. */
  writtenAt(position, frame) {
    if (!this.steps.length) {
      const step = this.stepAt.get(position) ?? 0;
      return step <= frame ? step : -1;
    }
    const now = Math.min(frame, this.lastStep);
    for (let step = now; step >= 0; step--) {
      if (this.steps[step].tokens.some(token => token.position === position)) return step;
      if (this.steps[step].canvas[position]?.text == null) return step === now ? -1 : step + 1;
    }
    return 0;
  }

  /** The state of each piece at a frame, with what the frame wrote marked or not. @returns {Part[]} */
  partsAt(frame, marksNew) {
    return this.pieces.map(({ text, position }) => {
      if (position === null) return { text, state: "text" };
      if (this.steps.length && this.explained(frame)) return { text, state: "settled" };
      const step = this.writtenAt(position, frame), canvas = this.steps[frame]?.canvas[position]?.text?.trim();
      if (step < 0) return { text, state: "masked" };
      const shown = canvas && canvas !== text.trim() ? canvas : text;
      return { text: shown, state: marksNew && this.timed && step === frame ? "new" : "settled" };
    });
  }

  /** The map of the token at a position, at a frame that shows the maps of steps. @returns {MapOf?} */
  tokenMap(position, frame) {
    const step = this.steps[this.writtenAt(position, frame)];
    const index = step ? step.tokens.findIndex(token => token.position === position) : -1;
    return index < 0 ? null : { set: step.maps, index };
  }

  /** What can be looked at, at a frame. @returns {MapOf?} */
  mapOf({ target, position }, frame) {
    if (!this.explained(frame)) return position === null ? null : this.tokenMap(position, frame);
    return target === null ? null : { set: this.maps, index: target };
  }

  /** The target that a piece or token belongs to. */
  selectionOf(piece) { return { target: piece.target, position: piece.position }; }

  /** A target as a selection, with the position of its first token. */
  targetSelection(index) { return { target: index, position: this.targets[index].positions[0] }; }

  /** What a step wrote: the selections of its words. */
  newAt(frame) {
    if (!this.explained(frame)) {
      return this.steps[frame].tokens.map(token => ({ target: null, position: token.position }));
    }
    if (this.steps.length) return [];
    return this.targets.map((_, index) => this.targetSelection(index)).filter(({ target }) => this.stepsOf(target).includes(frame));
  }

  /** The word of a target, of a contrast without what it is compared with: "ring#2" of "ring#2 > star". */
  wordOf({ name, instead }) { return instead ? name.slice(0, name.lastIndexOf(` > ${instead}`)) : name; }

  /** The text of a selection, at a frame. */
  nameOf({ target, position }, frame) {
    if (this.explained(frame)) return target === null ? "" : this.targets[target].name;
    return this.steps[Math.min(frame, this.lastStep)].canvas[position]?.text?.trim() ?? "";
  }

  /** The steps that committed the tokens of a target, ascending. @returns {number[]} */
  stepsOf(target) {
    const steps = this.targets[target].positions.map(position => this.stepAt.get(position) ?? null);
    return [...new Set(steps.filter(step => step !== null))].sort((a, b) => a - b);
  }

  /** The target with the most groundedness; null without targets. */
  get best() {
    const values = this.targets.map(target => target.groundedness ?? -1);
    return values.length ? values.indexOf(Math.max(...values)) : null;
  }

  /** The words that a frame offers: selections, in the order of the answer. */
  wordsAt(frame) {
    if (this.explained(frame)) return this.targets.map((_, index) => this.targetSelection(index));
    return this.pieces.map(piece => ({ target: null, position: piece.position }))
      .filter(word => word.position !== null && this.tokenMap(word.position, frame));
  }
}
