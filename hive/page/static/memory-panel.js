/** `<hive-memory>`: models in memory, how far they are loaded, and a box to try each. */

import { call } from "./api.js";
import { careful, el, isolated, setText } from "./dom.js";
import { promptBox } from "./prompt-box.js";
import { Reading } from "./reading.js";

/** Milliseconds between two looks: while something changes, and else. */
const BUSY_MS = 2000;
const IDLE_MS = 15000;
/** Streams of loading that are open at once: a browser has six connections to a host, and one is the downloads'. */
const MAX_WATCHED = 2;
const WORDS = /** @type {Record<string, string>} */ ({
  queued: "Waits", loading: "Loading", idle: "Ready", busy: "Answering", draining: "Ending", stopped: "Ended", failed: "Failed",
});

export class MemoryPanel extends HTMLElement {
  reading = new Reading(this, () => this.read(), () => !document.hidden);

  show() {
    /** @type {Map<string, MemoryRow>} */
    this.rows = new Map();
    this.empty = el("p", { class: "empty", text: "Asking the server…" });
    this.list = el("ul", { class: "memory" });
    this.replaceChildren(this.empty, this.list);
    document.addEventListener("hive-memory", () => this.reading.now());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.reading.soon(0); });
  }

  /** Gives the milliseconds until they are to be read again. */
  async read() {
    const workers = /** @type {LlmWorker[]} */ ((await call("GET", "/v1/workers/list")).workers);
    this.draw(workers);
    const changes = workers.some((worker) => worker.state !== "idle");
    return changes ? BUSY_MS : IDLE_MS;
  }

  /** @param {LlmWorker[]} workers */
  draw(workers) {
    const { rows, list } = this;
    if (!rows || !list) return;
    for (const worker of workers) {
      let row = rows.get(worker.id);
      if (!row) {
        row = new MemoryRow(worker, () => this.reading.now());
        rows.set(worker.id, row);
        list.append(row.node);
      }
      row.update(worker, [...rows.values()].filter((one) => one.source).length < MAX_WATCHED);
    }
    const there = new Set(workers.map((worker) => worker.id));
    for (const [id, row] of rows) {
      if (there.has(id)) continue;
      row.close();
      rows.delete(id);
    }
    if (!this.empty) return;
    this.empty.hidden = rows.size > 0;
    setText(this.empty, "No model is in memory. Load one from the list of models on disk.");
  }
}

class MemoryRow {
  /** @param {LlmWorker} worker @param {() => Promise<void>} again */
  constructor(worker, again) {
    this.id = worker.id;
    this.again = again;
    /** @type {EventSource | null} */
    this.source = null;
    this.loading = "";
    const name = worker.model_id ?? worker.model_ref;
    this.note = el("p", { class: "note" });
    this.bar = el("progress", { max: 100, "aria-label": `Loading ${name}`, hidden: true });
    this.box = promptBox(worker.model_ref, name);
    this.node = el("li", { class: "loaded" },
      el("div", { class: "head" }, el("h3", { class: "title" }, isolated(name)),
        careful("End", "Really end?", async () => { await call("DELETE", `/v1/workers/${worker.id}`); await again(); }, { "aria-label": `End ${name}` })),
      this.note, this.bar, this.box);
  }

  /** @param {LlmWorker} worker @param {boolean} mayWatch */
  update(worker, mayWatch) {
    this.node.dataset.status = worker.state;
    const serves = worker.state === "idle" || worker.state === "busy";
    const where = worker.backend === "cpu" ? "on the CPU" : `on ${worker.backend} ${worker.device}`;
    const slots = serves && worker.slots_total > 1 ? `${worker.slots_total - worker.slots_available} of ${worker.slots_total} busy` : "";
    setText(this.note, [WORDS[worker.state] ?? worker.state, where, slots, serves ? "" : this.loading].filter(Boolean).join(" · "));
    this.box.hidden = !serves;
    this.bar.hidden = worker.state !== "loading" && worker.state !== "queued";
    if (!this.bar.hidden && !this.source && mayWatch) this.watch();
    if (this.bar.hidden) this.unwatch();
  }

  watch() {
    const source = new EventSource(`/v1/loading/progress?id=${encodeURIComponent(this.id)}`);
    this.source = source;
    source.onmessage = (message) => {
      if (message.data === "[DONE]") {
        this.unwatch();
        this.again();
        return;
      }
      const event = JSON.parse(message.data);
      if (event.stage === "loading_to_vram" && event.layers_total) {
        this.bar.value = (event.layers_loaded * 100) / event.layers_total;
        this.loading = `layer ${event.layers_loaded} of ${event.layers_total}`;
      } else if (event.stage === "downloading") this.loading = "downloaded first";
      else if (event.stage === "error") this.loading = event.message;
    };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) this.source = null; };
  }

  /** Makes room for the stream of another. */
  unwatch() {
    this.source?.close();
    this.source = null;
  }

  close() {
    this.unwatch();
    this.node.remove();
  }
}
customElements.define("hive-memory", MemoryPanel);
