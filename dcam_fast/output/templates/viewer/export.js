// Taking a run along: picture, record, arrays, page and link.

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A file name from the words shown. */
function fileName(text, suffix) {
  const plain = text.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  return `${plain || "explanation"}.${suffix}`;
}

const pictureOf = pane => new Promise(resolve => pane.compose().toBlob(resolve, "image/png"));

/** What each entry of the menu does. @type {Record<string, (pane: Pane) => Promise<void>>} */
const exports = {
  async copy(pane) {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": pictureOf(pane) })]);
      say("The picture is in the clipboard.");
    } catch {  // no clipboard here: not allowed, or not a secure address
      await exports.png(pane);
      say("The clipboard is not available here, so the picture was downloaded.");
    }
  },
  async png(pane) {
    download(await pictureOf(pane), fileName(pane.current()?.name ?? "image", "png"));
  },
  async json(pane) {
    if (!pane.run.record) throw new Error("The answer is not finished.");
    download(new Blob([JSON.stringify(pane.run.record, null, 1)], { type: "application/json" }), "explanation.json");
  },
  async npz(pane) { download(await pane.app.live.fileOf(pane.run, "maps.npz"), "maps.npz"); },
  async page(pane) { download(await pane.app.live.fileOf(pane.run, "page"), "explanation.html"); },
  async link(pane) {
    const link = pane.app.live.linkTo(pane.run);
    try {
      await navigator.clipboard.writeText(link);
      say("The link is in the clipboard.");
    } catch {
      say(link);
    }
  },
};

function listenToExports(app) {
  const menu = at("export");
  menu.addEventListener("click", async event => {
    const name = event.target.closest("[data-export]")?.dataset.export;
    if (!name) return;
    menu.open = false;
    try {
      await exports[name](app.active);
    } catch (error) {
      say(error.message, true);
    }
  });
  menu.addEventListener("keydown", event => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  addEventListener("pointerdown", event => { if (!menu.contains(event.target)) menu.open = false; });
}
