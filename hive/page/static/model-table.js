/** `<hive-models>`: what is on disk, and what can be done with it. */

import { call, inPath, operation } from "./api.js";
import { button, careful, copy, el, isolated, say, setText } from "./dom.js";
import { freeRoom } from "./failure.js";
import { ago, countedKinds, size } from "./format.js";
import { Reading } from "./reading.js";
import { snippets } from "./snippets.js";

/** Rows that are shown at once; the filter finds the others. Models from which on there is a filter. */
const MAX_SHOWN = 200;
const FILTER_FROM = 6;

export class ModelTable extends HTMLElement {
  /** Reads what is on disk; nobody does before `show`. */
  reading = new Reading(this, async () => {
    this.models = /** @type {Model[]} */ ((await call("GET", "/v1/models")).data);
    this.draw();
  });

  show() {
    /** @type {Model[]} */
    this.models = [];
    /** @type {Map<string, HTMLTableRowElement>} */
    this.rows = new Map();
    this.sum = el("p", { class: "sum" });
    this.filter = el("input", { type: "search", placeholder: "Find", "aria-label": "Find a model on disk", hidden: true });
    this.filter.addEventListener("input", () => this.draw());
    this.empty = el("p", { class: "empty", text: "Looking at the disk…" });
    this.body = el("tbody", { role: "rowgroup" });
    const heads = ["Model", "Size", "Age", "Actions"].map((text) => el("th", { role: "columnheader", scope: "col", text }));
    this.table = el("table", { role: "table", class: "models", "aria-label": "Models on disk", hidden: true },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.body);
    this.replaceChildren(el("div", { class: "bar" }, this.sum, this.filter, freeRoom()), this.empty, this.table);
  }

  draw() {
    const { rows, body, filter } = this;
    const models = /** @type {Model[]} */ (this.models ?? []);
    if (!rows || !body || !filter) return;
    const sought = filter.value.trim().toLowerCase();
    const shown = models.filter((model) => model.id.toLowerCase().includes(sought)).slice(0, MAX_SHOWN);
    const ids = new Set(shown.map((model) => model.id));
    for (const [id, row] of rows) if (!ids.has(id)) { row.remove(); rows.delete(id); }
    let at = body.firstElementChild;
    for (const model of shown) {
      const row = rows.get(model.id) ?? this.row(model);
      rows.set(model.id, row);
      if (row === at) at = at.nextElementSibling;
      else body.insertBefore(row, at);
    }
    const bytes = models.reduce((sum, model) => sum + model.size, 0);
    if (this.sum) setText(this.sum, models.length ? `${countedKinds(models.map((model) => model.id))} · ${size(bytes)}` : "");
    filter.hidden = models.length < FILTER_FROM;
    if (this.table) this.table.hidden = shown.length === 0;
    if (this.empty) {
      this.empty.hidden = shown.length > 0;
      setText(this.empty, models.length ? "No model on disk is called that." : "No models yet.");
    }
  }

  /** @param {Model} model */
  row(model) {
    const note = el("p", { class: "note", text: model.incomplete ? "Shards are missing: ask for it again." : "" });
    const use = el("details", { class: "use" }, el("summary", { text: "Use it" }));
    use.addEventListener("toggle", () => { if (use.children.length === 1) use.append(...snippets(model), pathOf(model)); });
    /** @param {string} text */
    const label = (text) => ({ "aria-label": `${text} ${model.id}` });
    const load = model.path.toLowerCase().endsWith(".gguf") && button("Load", () => this.load(model), { ...label("Load into memory"), class: "primary" });
    return el(
      "tr", { role: "row" },
      el("th", { role: "rowheader", scope: "row" }, el("span", { class: "title" }, isolated(model.id)), note, use),
      el("td", { role: "cell", class: "size", text: size(model.size) }),
      el("td", { role: "cell", class: "age", text: ago(model.created) }),
      el("td", { role: "cell", class: "actions" }, load || null,
        button("Verify", () => this.verify(model, note), label("Verify")),
        careful("Delete", "Really delete?", () => this.discard(model), { ...label("Delete"), class: "danger" })),
    );
  }

  /** @param {Model} model */
  async load(model) {
    await call("POST", "/v1/workers/spawn", { model_ref: model.id });
    document.dispatchEvent(new CustomEvent("hive-memory"));
  }

  /** @param {Model} model @param {HTMLElement} note */
  async verify(model, note) {
    setText(note, "Reading every byte…");
    /** @type {string[]} */
    const wrong = [];
    try {
      await operation("/v1/models/verify", { models: [model.id] }, (line) => {
        if (line.event === "progress" && line.bytes_total) setText(note, `Verifying: ${size(line.bytes_done)} of ${size(line.bytes_total)}`);
        if (line.event === "problem") wrong.push(`${line.path}: ${line.message}`);
      });
    } catch (error) {
      setText(note, "");
      throw error;
    }
    setText(note, wrong.length ? wrong.slice(0, 5).join(" · ") : `Every byte is right, ${new Date().toLocaleTimeString()}.`);
    if (wrong.length) note.append(" ", button("Fetch what is wrong again", () => operation("/v1/models/verify", { models: [model.id], fetch: true }, () => {})));
  }

  /** @param {Model} model */
  async discard(model) {
    const done = await call("DELETE", `/v1/models/${inPath(model.id)}`);
    say(`${model.id} is deleted: ${size(done.freed_bytes)} are free.`);
    await this.reading.now();
  }
}

/** @param {Model} model */
const pathOf = (model) => el("p", { class: "path" }, el("code", {}, isolated(model.path)), button("Copy path", () => copy(model.path)));
customElements.define("hive-models", ModelTable);
