/** `<hive-fleet>`: who downloads, how much all of them may take, and how many may run at once. For who administers. */

import { call } from "./api.js";
import { el, isolated, say, setText } from "./dom.js";
import { size } from "./format.js";
import { Reading } from "./reading.js";

const AGAIN_MS = 10000;
/** The slider's places: from 1 MB/s upwards by half powers of ten, and at its end no limit. */
const RATES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].map((mega) => mega * 1e6);

export class FleetPanel extends HTMLElement {
  reading = new Reading(this, () => this.read(), () => !document.hidden);

  show() {
    this.rate = el("input", { type: "range", min: 0, max: RATES.length, value: RATES.length, step: 1, id: "rate" });
    this.rateText = el("span", { text: "no limit" }); // no <output>: that would be read out like the status region
    this.running = el("input", { type: "number", min: 1, max: 1000, id: "running", placeholder: "no limit" });
    this.workers = el("ul", { class: "workers" });
    this.empty = el("p", { class: "empty", text: "No worker runs. Start one on any machine: hive worker." , hidden: true });
    this.replaceChildren(
      el("label", { class: "field", for: "rate" }, el("span", { text: "Bandwidth of all workers" }), this.rateText), this.rate,
      el("label", { class: "field", for: "running" }, el("span", { text: "Downloads at once" }), this.running),
      el("h3", { text: "Workers" }), this.empty, this.workers);
    this.rate.addEventListener("input", () => this.sayRate(this.chosen()));
    this.rate.addEventListener("change", () => this.put("/v1/settings/bandwidth", { bytes_per_second: this.chosen() }));
    this.running.addEventListener("change", () => this.put("/v1/settings/downloads", { max_running: Number(this.running?.value) || null }));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.reading.soon(0); });
  }

  /** @returns {number | null} */
  chosen() {
    return RATES[Number(this.rate?.value)] ?? null;
  }

  /** @param {number | null} rate */
  sayRate(rate) {
    const text = rate === null ? "no limit" : `${size(rate)}/s`;
    if (this.rateText) setText(this.rateText, text);
    this.rate?.setAttribute("aria-valuetext", text);
  }

  /** @param {string} path @param {unknown} body */
  async put(path, body) {
    try {
      await call("PUT", path, body);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
    await this.reading.now();
  }

  /** Gives the milliseconds until it is to be read again; nothing for a key that does not administer. */
  async read() {
    const section = /** @type {HTMLElement} */ (this.closest("section"));
    try {
      const [bandwidth, downloads, workers] = await Promise.all(
        ["/v1/settings/bandwidth", "/v1/settings/downloads", "/v1/workers"].map((path) => call("GET", path)));
      section.hidden = false;
      this.draw(bandwidth.bytes_per_second, downloads.max_running, workers.data);
    } catch (error) {
      if (/** @type {any} */ (error).status !== 403) throw error;
      section.hidden = true;
      return undefined;
    }
    return AGAIN_MS;
  }

  /** @param {number | null} rate @param {number | null} running @param {Worker[]} workers */
  draw(rate, running, workers) {
    if (this.rate && document.activeElement !== this.rate) {
      const at = rate === null ? RATES.length : RATES.findIndex((one) => one >= rate);
      this.rate.value = String(at < 0 ? RATES.length - 1 : at);
      this.sayRate(rate);
    }
    if (this.running && document.activeElement !== this.running) this.running.value = running === null ? "" : String(running);
    if (this.empty) this.empty.hidden = workers.length > 0;
    this.workers?.replaceChildren(...workers.map((worker) => el("li", { "data-status": worker.download_id ? "busy" : "idle" },
      isolated(worker.name), el("span", { class: "quiet", text: worker.download_id ? "downloading" : "free" }))));
  }
}
customElements.define("hive-fleet", FleetPanel);
