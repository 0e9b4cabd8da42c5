/**
 * `<hive-downloads>`: what is under way. Rows are kept by id and moved only where their place changed, and not while the
 * pointer or the focus is among them: what somebody is about to press does not run away.
 */

import { button, el, setText } from "./dom.js";
import { DownloadRow } from "./download-row.js";
import { ENDED } from "./downloads.js";
import { speed } from "./format.js";

const RANK = /** @type {Record<string, number>} */ ({ downloading: 0, verifying: 0, resolving: 0, retrying: 0, queued: 1, paused: 2 });

/** Smaller comes first. @param {Row} row @returns {[number, number, number]} */
function place(row) {
  const rank = RANK[row.status] ?? 3;
  if (rank === 1) return [1, row.record.ahead ?? 1e9, row.record.created_at ?? 0];
  return [rank, rank === 3 ? -(row.record.ended_at ?? Date.now() / 1000) : row.record.created_at ?? 0, 0];
}

export class DownloadTable extends HTMLElement {
  /** @param {import("./downloads.js").Downloads} downloads */
  show(downloads) {
    this.downloads = downloads;
    /** @type {Map<string, DownloadRow>} */
    this.rows = new Map();
    this.held = false;
    this.sum = el("p", { class: "sum" });
    this.clear = button("Clear ended", () => this.clearEnded(), { hidden: true });
    this.empty = el("p", { class: "empty", text: "Asking the server…" });
    this.body = el("tbody", { role: "rowgroup" });
    const heads = ["Model", "Progress", "Speed", "Time left", "Actions"].map((text) => el("th", { role: "columnheader", scope: "col", text }));
    this.table = el("table", { role: "table", "aria-label": "Downloads", hidden: true },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.body);
    this.bar = el("div", { class: "bar", hidden: true }, this.sum, this.clear);
    this.replaceChildren(this.bar, this.empty, this.table);
    for (const kind of ["pointerenter", "focusin"]) this.body.addEventListener(kind, () => { this.held = true; });
    for (const kind of ["pointerleave", "focusout"]) {
      this.body.addEventListener(kind, () => {
        this.held = this.body?.matches(":hover, :focus-within") ?? false;
        if (!this.held) this.order();
      });
    }
    downloads.addEventListener("reordered", () => this.order()); // somebody has just wished it, with the pointer there
    downloads.addEventListener("change", (event) => this.update(/** @type {CustomEvent<Row[]>} */ (event).detail));
  }

  /** @param {Row[]} changed */
  update(changed) {
    const { rows, downloads } = this;
    if (!rows || !downloads) return;
    let moved = false;
    for (const row of changed) {
      const known = rows.get(row.id);
      if (!known) {
        const made = new DownloadRow(row, downloads);
        rows.set(row.id, made);
        this.body?.append(made.node);
        moved = true;
      } else {
        moved ||= known.actionsFor !== row.status || row.status === "queued";
        known.update();
      }
    }
    for (const [id, row] of rows) {
      if (!downloads.rows.has(id)) {
        row.node.remove();
        rows.delete(id);
      }
    }
    if (moved && !this.held) this.order();
    this.summarise();
  }

  order() {
    const { body, rows } = this;
    if (!body || !rows) return;
    const placed = [...rows.values()].map((one) => /** @type {const} */ ([place(one.row), one.node]));
    placed.sort(([a], [b]) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
    let at = body.firstElementChild;
    for (const [, node] of placed) {
      if (node === at) at = at.nextElementSibling;
      else body.insertBefore(node, at);
    }
  }

  summarise() {
    const all = [...(this.downloads?.rows.values() ?? [])];
    const moving = all.filter((row) => (RANK[row.status] ?? 3) === 0);
    const waiting = all.filter((row) => row.status === "queued").length;
    const ended = all.filter((row) => ENDED.has(row.status)).length;
    const rate = moving.reduce((sum, row) => sum + (row.event.bytes_per_second ?? 0), 0);
    const said = [
      moving.length ? `${moving.length} running` : "", waiting ? `${waiting} waiting` : "",
      ended ? `${ended} ended` : "", speed(rate),
    ];
    if (this.sum) setText(this.sum, said.filter(Boolean).join(" · "));
    if (this.clear) this.clear.hidden = ended === 0;
    if (this.bar) this.bar.hidden = all.length === 0;
    if (this.table) this.table.hidden = all.length === 0;
    if (!this.empty) return;
    this.empty.hidden = all.length > 0;
    if (this.downloads?.known) setText(this.empty, "Nothing is under way. Paste a model above.");
  }

  clearEnded() {
    for (const row of [...(this.downloads?.rows.values() ?? [])]) if (ENDED.has(row.status)) this.downloads?.dismiss(row);
  }
}
customElements.define("hive-downloads", DownloadTable);
