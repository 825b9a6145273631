// Small helpers for the document.

/** The element with an id. @param {string} id @returns {any} */
const at = id => document.getElementById(id);

/**
 * An element. Properties are set, `data-` and `aria-` names become attributes, and texts stay texts.
 * @param {string} tag @param {object} properties @param {...(Node|string)} children
 */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** @param {number?} value @param {number} digits */
const shown = (value, digits = 2) => value === null || value === undefined ? "-" : value.toFixed(digits);

/** @param {number} share 0 to 1 */
const percent = share => share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;

/** Says something to everyone, screen readers included. */
function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

/** A bar of a share. @param {number?} share  0 to 1 */
function bar(share) {
  const filled = make("i");
  filled.style.setProperty("--share", share ?? 0);
  return make("span", { className: share === null || share === undefined ? "bar unknown" : "bar", "aria-hidden": "true" }, filled);
}

/** Facts as a table in a table: names and values. */
function factTable(facts) {
  const cell = value => value !== null && typeof value === "object" && !Array.isArray(value) ? factTable(value)
    : typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(4))
    : Array.isArray(value) ? value.map(item => typeof item === "object" ? JSON.stringify(item) : item).join(", ") : String(value ?? "-");
  const rows = Object.entries(facts).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { dir: "auto" }, cell(value))));
  return make("table", {}, make("tbody", {}, ...rows));
}

/** A script's function at most once a frame. @param {() => void} work */
function oncePerFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}
