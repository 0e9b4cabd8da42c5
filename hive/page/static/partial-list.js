/** `<hive-partials>`: files that have not come whole, and what they take. For who administers; read when it is opened. */

import { call } from "./api.js";
import { el, isolated, setText } from "./dom.js";
import { ago, counted, size } from "./format.js";
import { Reading } from "./reading.js";

/** Files that are shown, those that take most first. */
const MAX_SHOWN = 50;

export class PartialList extends HTMLElement {
  show() {
    this.sum = el("p", { class: "quiet" });
    this.list = el("ul", { class: "partials" });
    this.box = el("details", {}, el("summary", { text: "Files that have not come whole" }), this.sum, this.list);
    this.box.addEventListener("toggle", () => this.reading.soon(0));
    this.replaceChildren(this.box);
  }

  reading = new Reading(this, () => this.read(), () => this.box?.open ?? false);

  async read() {
    const { sum, list } = this;
    if (!sum || !list) return;
    /** @type {PartialFile[]} */
    let found;
    try {
      found = (await call("GET", "/v1/partials")).data;
    } catch (error) {
      if (/** @type {any} */ (error).status !== 403) throw error;
      setText(sum, "Only who administers this hive sees them.");
      return;
    }
    const unused = found.filter((one) => !one.in_use);
    const bytes = (/** @type {PartialFile[]} */ some) => size(some.reduce((all, one) => all + one.bytes, 0));
    setText(sum, found.length === 0 ? "There are none."
      : `${counted(found.length, "file")}, ${bytes(found)}. ${unused.length ? `Nobody waits for ${bytes(unused)} of them: a new request goes on from there, “Free room” removes what is old.` : "Downloads go on from all of them."}`);
    list.replaceChildren(...found.slice(0, MAX_SHOWN).map((one) => el("li", {},
      el("span", { class: "title" }, isolated(one.model_ref?.replace(/^hf:/, "") ?? one.path.replace(/^.*\//, "").slice(0, 12))),
      el("span", { class: "quiet", text: `${size(one.bytes)} · ${one.kind === "set_aside" ? "wrong bytes" : one.in_use ? "goes on" : "left"} · ${ago(one.modified_at)}` }))));
  }
}
customElements.define("hive-partials", PartialList);
