/** What can be done with one download, in each of its states: its buttons, its place and priority in the queue. */

import { call } from "./api.js";
import { button, careful, copy, el, say } from "./dom.js";
import { ENDED } from "./downloads.js";
import { counted } from "./format.js";
import { queueHandle } from "./queue-handle.js";

const PRIORITIES = { high: "First", normal: "In turn", low: "Last" };

export class DownloadActions {
  /** @param {import("./download-row.js").DownloadRow} shown */
  constructor(shown) {
    this.shown = shown;
    this.row = shown.row;
    this.downloads = shown.downloads;
    /** @type {HTMLSelectElement | null} */
    this.list = null;
  }

  buttons() {
    const { row } = this;
    /** @param {string} text */
    const label = (text) => ({ "aria-label": `${text} ${row.name}` });
    const dismiss = () => button("Dismiss", () => this.downloads.dismiss(row), label("Dismiss"));
    if (row.status === "failed") return [dismiss()];
    if (row.status === "cancelled") return [button("Retry", () => this.retry({}), label("Retry")), dismiss()];
    if (row.status === "complete") return [button("Copy path", () => copy(row.event.local_path ?? ""), label("Copy the path of")), dismiss()];
    const cancel = careful("Cancel", "Really cancel?", () => this.control("DELETE", ""), label("Cancel"));
    if (row.status === "paused") return [button("Resume", () => this.control("POST", "/resume"), { ...label("Resume"), class: "primary" }), cancel];
    const pause = button("Pause", () => this.control("POST", "/pause"), label("Pause"));
    return row.status === "queued" ? [this.handle(), this.priority(), pause, cancel] : [pause, cancel];
  }

  handle() {
    return queueHandle(this.row.name, this.shown.node, async (side, id) => {
      await this.control("PUT", "/place", { [side]: id });
      await this.downloads.reading.now();
      this.downloads.dispatchEvent(new CustomEvent("reordered"));
      const { ahead } = this.row.record;
      say(ahead ? `${this.row.name} is behind ${counted(ahead, "other")}.` : `${this.row.name} comes next.`);
    });
  }

  priority() {
    const list = el("select", { "aria-label": `Priority of ${this.row.name}`, title: "How soon it gets a worker" });
    for (const [value, text] of Object.entries(PRIORITIES)) list.append(el("option", { value, text }));
    list.value = this.row.record.priority;
    this.list = list;
    list.addEventListener("change", () => this.control("PUT", "/priority", { priority: list.value }).catch((error) => say(error.message, true)));
    return list;
  }

  /** Somebody else, or a move, may have changed it; not under the hand of who is choosing. */
  showPriority() {
    const { list, row } = this;
    if (list && list.value !== row.record.priority && document.activeElement !== list) list.value = row.record.priority;
  }

  /** @param {string} method @param {string} what @param {unknown} [body] */
  async control(method, what, body) {
    const record = await call(method, `/v1/downloads/${this.row.id}${what}`, body);
    this.row.heard = this.row.heard && !ENDED.has(record.status);
    this.downloads.merge(record);
    this.downloads.reading.soon();
    this.shown.update();
  }

  /** @param {Record<string, string>} body */
  async retry(body) {
    await call("POST", `/v1/downloads/${this.row.id}/retry`, body);
    this.downloads.dismiss(this.row);
    await this.downloads.reading.now();
  }
}
