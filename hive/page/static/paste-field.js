/** `<hive-paste>`: the field for more. Paste -> what would come -> start. */

import { ApiError, call } from "./api.js";
import { button, el, say } from "./dom.js";
import { mending, withVariant } from "./failure.js";
import { planView } from "./plan-view.js";

/** The repository that an error is about: what was pasted may be a command. @param {ApiError} error @param {string} pasted */
function refOf(error, pasted) {
  const { repo, revision } = error.details;
  return repo ? `hf:${repo}${revision ? `@${revision}` : ""}` : pasted;
}

export class PasteField extends HTMLElement {
  /** @param {import("./downloads.js").Downloads} downloads */
  show(downloads) {
    this.downloads = downloads;
    this.asked = 0;
    this.form = /** @type {HTMLFormElement} */ (this.querySelector("form"));
    this.field = /** @type {HTMLInputElement} */ (this.querySelector("input[name=ref]"));
    this.result = el("div", { class: "plan", role: "group", "aria-label": "What would come", hidden: true });
    this.append(this.result);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.plan(this.read());
    });
    this.field.addEventListener("paste", () => setTimeout(() => this.form?.requestSubmit()));
  }

  /** What the form says. @returns {Record<string, any>} */
  read() {
    const data = new FormData(this.form);
    /** @type {Record<string, any>} */
    const wish = { model_ref: String(data.get("ref") ?? "").trim() };
    for (const name of ["include", "exclude"]) {
      const globs = String(data.get(name) ?? "").split(/\s+/).filter(Boolean);
      if (globs.length) wish[name] = globs;
    }
    const token = String(data.get("hf_token") ?? "").trim();
    if (token) wish.hf_token = token;
    return wish;
  }

  /** Ask what would come, and show it. The answer of an older question is passed over. @param {Record<string, any>} wish */
  async plan(wish) {
    const asked = (this.asked = (this.asked ?? 0) + 1);
    if (!wish.model_ref || !this.result) return;
    this.result.hidden = false;
    this.result.setAttribute("aria-busy", "true");
    if (!this.result.firstChild) this.result.append(el("p", { class: "quiet", text: "Asking what that would be…" }));
    let shown;
    try {
      const plan = /** @type {Plan} */ (await call("POST", "/v1/models/plan", wish));
      shown = planView(plan, {
        variant: (name) => this.plan({ ...wish, model_ref: withVariant(plan.model_ref, name) }),
        start: () => this.start(wish),
        close: () => this.close(),
      });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      shown = this.refused(error, wish);
    }
    if (asked !== this.asked) return;
    this.result.removeAttribute("aria-busy");
    this.result.replaceChildren(...shown);
  }

  /** @param {ApiError} error @param {Record<string, any>} wish */
  refused(error, wish) {
    const wait = error.code === "WORKERS_SILENT" || error.code === "HUB_UNAVAILABLE";
    return [
      el("p", { class: "wrong" }, el("bdi", { text: error.message })),
      mending(error.code, error.details, {
        again: (body) => this.plan({ ...wish, ...body }),
        variant: (name) => this.plan({ ...wish, model_ref: withVariant(refOf(error, wish.model_ref), name) }),
      }),
      el("div", { class: "buttons" }, wait && button("Queue it all the same", () => this.start(wish)), button("Close", () => this.close())),
    ];
  }

  /** @param {Record<string, any>} wish */
  async start(wish) {
    const priority = new FormData(this.form).get("priority");
    const answer = await call("POST", "/v1/models/download", { ...wish, ...(priority && priority !== "normal" ? { priority } : {}) });
    if (answer.local_path) say("It is on the disk already.");
    else if (answer.joined) say("Somebody asked for it before: it is under way.");
    this.close();
    this.form?.reset();
    if (!answer.local_path) this.downloads?.look(answer.download_id);
  }

  close() {
    this.asked = (this.asked ?? 0) + 1;
    this.result?.replaceChildren();
    if (this.result) this.result.hidden = true;
    this.field?.focus();
  }
}
customElements.define("hive-paste", PasteField);
