/** A box to try a model: a prompt, its answer as it comes, and a way to stop it. */

import { events } from "./api.js";
import { el, say } from "./dom.js";
import { counted } from "./format.js";

const MAX_TOKENS = 256;

/** @param {string} model @param {string} name */
export function promptBox(model, name) {
  const prompt = el("textarea", { name: "prompt", rows: 2, required: true, maxlength: 32768, "aria-label": `Prompt for ${name}`, placeholder: "Try a prompt" });
  const send = el("button", { type: "submit", class: "primary", text: "Send" });
  const figures = el("span", { class: "quiet" });
  const answer = el("pre", { class: "answer", hidden: true, tabindex: "0", "aria-label": `Answer of ${name}` });
  /** @type {AbortController | null} */
  let running = null;
  const form = el("form", { class: "prompt" }, prompt, el("div", { class: "buttons" }, send, figures), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) { running.abort(); return; }
    running = new AbortController();
    send.textContent = "Stop";
    answer.hidden = false;
    const text = document.createTextNode("");
    answer.replaceChildren(text);
    figures.textContent = "";
    try {
      await ask(model, prompt.value, running.signal, text, figures);
    } catch (error) {
      if (!running.signal.aborted) say(/** @type {Error} */ (error).message, true);
    } finally {
      running = null;
      send.textContent = "Send";
    }
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}

/** Tokens are written once per picture. @param {string} model @param {string} prompt @param {AbortSignal} signal
 * @param {Text} text @param {HTMLElement} figures */
async function ask(model, prompt, signal, text, figures) {
  let waiting = "";
  const write = () => { text.appendData(waiting); waiting = ""; };
  await events("/v1/inference", { model, prompt, max_tokens: MAX_TOKENS }, (event) => {
    if (event.type === "token") {
      if (!waiting) requestAnimationFrame(write);
      waiting += event.t;
    } else if (event.type === "end") {
      const seconds = event.decode_time_ms / 1000;
      figures.textContent = `${counted(event.tokens_out, "token")}${seconds > 0 ? `, ${(event.tokens_out / seconds).toFixed(1)} a second` : ""}`;
    } else if (event.type === "error") say(event.message, true);
  }, signal);
  write();
}
