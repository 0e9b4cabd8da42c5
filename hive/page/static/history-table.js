/** `<hive-history>`: downloads that have ended, found by name and by how they ended. */

import { call } from "./api.js";
import { button, el, isolated, setText } from "./dom.js";
import { nameOf } from "./downloads.js";
import { ago, size, span, speed } from "./format.js";
import { Reading } from "./reading.js";

const PAGE = 25;

export class HistoryTable extends HTMLElement {
  /** @param {import("./downloads.js").Downloads} downloads */
  show(downloads) {
    this.downloads = downloads;
    this.cursor = "";
    this.asked = 0;
    this.status = el("select", { "aria-label": "How it ended" },
      ...[["ended", "All"], ["complete", "Done"], ["failed", "Failed"], ["cancelled", "Cancelled"]].map(([value, text]) => el("option", { value, text })));
    this.find = el("input", { type: "search", placeholder: "Find", "aria-label": "Find in the history", maxlength: 200 });
    this.body = el("tbody", { role: "rowgroup" });
    this.more = button("More", () => this.load(false), { hidden: true });
    this.empty = el("p", { class: "empty", text: "Asking the server…" });
    const heads = ["Model", "End", "Bytes", "Actions"].map((text) => el("th", { role: "columnheader", scope: "col", text }));
    this.table = el("table", { role: "table", class: "history", "aria-label": "History", hidden: true },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), this.body);
    this.box = el("details", {}, el("summary", { text: "Downloads of the last day" }),
      el("div", { class: "bar" }, this.status, this.find), this.empty, this.table, this.more);
    this.replaceChildren(this.box);
    this.box.addEventListener("toggle", () => this.reading.soon(0));
    this.status.addEventListener("change", () => this.reading.now());
    let timer = 0;
    this.find.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.reading.now(), 300);
    });
  }

  reading = new Reading(this, () => this.load(true), () => this.box?.open ?? false);

  /** @param {boolean} anew */
  async load(anew) {
    const { status, find, body, more, table, empty } = this;
    if (!status || !find || !body || !more || !table || !empty) return;
    const asked = (this.asked = (this.asked ?? 0) + 1);
    const query = new URLSearchParams({ status: status.value, limit: String(PAGE) });
    if (find.value.trim()) query.set("model", find.value.trim());
    if (!anew && this.cursor) query.set("cursor", this.cursor);
    const answer = await call("GET", `/v1/downloads?${query}`);
    if (asked !== this.asked) return;
    if (anew) body.replaceChildren();
    for (const record of answer.data) body.append(this.row(record));
    this.cursor = answer.next_cursor ?? "";
    more.hidden = !this.cursor;
    table.hidden = body.childElementCount === 0;
    empty.hidden = !table.hidden;
    setText(empty, find.value.trim() || status.value !== "ended" ? "Nothing of that." : "Nothing has ended in the last day.");
  }

  /** @param {DownloadRecord} record */
  row(record) {
    const name = nameOf(record);
    const why = record.status === "failed" ? record.progress?.message ?? "" : "";
    const took = record.duration_seconds ? ` after ${span(record.duration_seconds)}` : "";
    const rate = record.average_bytes_per_second ? ` · ${speed(record.average_bytes_per_second)}` : "";
    const again = record.status === "complete" ? null : button("Retry", async () => {
      await call("POST", `/v1/downloads/${record.id}/retry`, {});
      await this.downloads?.reading.now();
    }, { "aria-label": `Retry ${name}` });
    return el("tr", { role: "row", "data-status": record.status },
      el("th", { role: "rowheader", scope: "row" }, el("span", { class: "title" }, isolated(name)), el("p", { class: "note" }, isolated(why))),
      el("td", { role: "cell", text: `${{ complete: "Done", failed: "Failed", cancelled: "Cancelled" }[record.status] ?? record.status}${took}, ${ago(record.ended_at)}` }),
      el("td", { role: "cell", class: "size", text: record.bytes_received ? size(record.bytes_received) + rate : "" }),
      el("td", { role: "cell", class: "actions" }, again));
  }
}
customElements.define("hive-history", HistoryTable);
