/** One download as a row of the table: made once, then changed in place where something changed. */

import { el, isolated, setText } from "./dom.js";
import { DownloadActions } from "./download-actions.js";
import { ENDED } from "./downloads.js";
import { askForVariant, mending } from "./failure.js";
import { ago, counted, percent, size, span, speed } from "./format.js";

const WORDS = /** @type {Record<string, string>} */ ({
  queued: "Waits", resolving: "Asks the Hub", downloading: "Downloading", verifying: "Verifying", paused: "Paused",
  retrying: "Tries again", complete: "Done", failed: "Failed", cancelled: "Cancelled",
});

export class DownloadRow {
  /** @param {Row} row @param {import("./downloads.js").Downloads} downloads */
  constructor(row, downloads) {
    this.row = row;
    this.downloads = downloads;
    this.actionsFor = "";
    this.acts = new DownloadActions(this);
    this.title = el("span", { class: "title", id: `d-${row.id}` }, isolated(""));
    this.note = el("p", { class: "note" });
    this.more = el("div", { class: "more" });
    this.details = el("details", {}, el("summary", { text: "Details" }), this.more);
    this.details.addEventListener("toggle", () => this.showDetails());
    this.mending = el("div", { class: "outcome", hidden: true });
    this.bar = el("progress", { max: 100, "aria-labelledby": `d-${row.id}` });
    this.amount = el("span", { class: "amount" });
    this.speed = el("td", { role: "cell", class: "speed" });
    this.left = el("td", { role: "cell", class: "left" });
    this.actions = el("td", { role: "cell", class: "actions" });
    this.node = el(
      "tr", { role: "row", class: "download", "data-id": row.id },
      el("th", { role: "rowheader", scope: "row" }, this.title, this.note, this.mending, this.details),
      el("td", { role: "cell", class: "progress" }, this.bar, this.amount),
      this.speed, this.left, this.actions,
    );
    this.update();
  }

  update() {
    const { row } = this;
    const { event } = row;
    const share = percent(event);
    setText(/** @type {Node} */ (this.title.firstChild), row.name);
    if (this.node.dataset.status !== row.status) this.node.dataset.status = row.status;
    if (share === null) this.bar.removeAttribute("value");
    else if (this.bar.value !== share) this.bar.value = share;
    this.bar.hidden = ENDED.has(row.status) || row.status === "queued" || (row.status === "paused" && share === null);
    setText(this.amount, this.amountText(share));
    const moves = row.status === "downloading";
    setText(this.speed, moves ? speed(event.bytes_per_second) : "");
    setText(this.left, moves && event.eta_seconds !== undefined ? `${span(event.eta_seconds)} left` : "");
    setText(this.note, this.noteText());
    this.setActions();
    this.acts.showPriority();
    if (this.details.open) this.showDetails();
  }

  /** @param {number | null} share */
  amountText(share) {
    const { event } = this.row;
    if (event.stage === "complete") return event.bytes_total ? size(event.bytes_total) : "";
    if (!event.bytes_total) return event.bytes_downloaded ? size(event.bytes_downloaded) : "";
    if (!event.bytes_downloaded) return size(event.bytes_total);
    return `${share} % · ${size(event.bytes_downloaded)} of ${size(event.bytes_total)}`;
  }

  noteText() {
    const { record, event, status } = this.row;
    const parts = [WORDS[status] ?? status];
    if (status === "queued" && record.waiting_for) parts[0] = `Waits for ${record.waiting_for}`.replace("for 1 ahead", "behind 1 other").replace(/for (\d+) ahead/, "behind $1 others");
    if (event.files_total && event.files_total > 1 && !ENDED.has(status)) parts.push(`file ${Math.min((event.files_done ?? 0) + 1, event.files_total)} of ${event.files_total}`);
    if (record.worker && !ENDED.has(status) && status !== "queued" && status !== "paused") parts.push(`on ${record.worker.split(".")[0]}`);
    if (event.message?.startsWith(`${parts[0]}.`)) parts[0] = event.message;
    else if (event.message && status !== "cancelled") parts.push(event.message);
    if (status === "complete" && event.seconds) parts.push(`in ${span(event.seconds)}`);
    return parts.join(" · ");
  }

  /** The buttons change with the status alone, so that none moves under a finger. */
  setActions() {
    const { row } = this;
    if (this.actionsFor === row.status) return;
    this.actionsFor = row.status;
    const had = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(...this.acts.buttons());
    if (had) /** @type {HTMLElement | null} */ (this.actions.querySelector("button"))?.focus();
    this.mending.hidden = row.status !== "failed";
    this.mending.replaceChildren(...(row.status === "failed" ? [mending(row.event.code ?? "", row.event.details ?? {}, {
      again: (body) => this.acts.retry(body),
      variant: async (name) => { await askForVariant(row.record.model_ref, name); this.downloads.dismiss(row); this.downloads.reading.soon(); },
    })] : []));
  }

  showDetails() {
    if (!this.details.open) return;
    const { record, event } = this.row;
    const files = (event.files ?? []).map((file) => el("li", {}, isolated(file.path), ` ${size(file.bytes_downloaded)} of ${size(file.bytes_total)}`));
    this.more.replaceChildren(
      el("p", {}, "Asked for as ", el("code", {}, isolated(record.model_ref)), ` ${ago(record.created_at)}, try ${record.attempt ?? 1}`),
      ...(record.worker ? [el("p", {}, "Worker ", el("code", { text: record.worker }))] : []),
      ...(files.length ? [el("p", { text: counted(files.length, "file") + " under way" }), el("ul", {}, ...files)] : []),
      el("p", {}, "Id ", el("code", { text: record.id })),
    );
  }
}
