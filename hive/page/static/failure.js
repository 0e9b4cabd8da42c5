/** Why something failed, with the button that mends it: a token for a gated model, another variant, room on the disk. */

import { call, operation } from "./api.js";
import { button, careful, el, safeLink, say } from "./dom.js";
import { size } from "./format.js";

/** The least that a person must know to go on. @type {Record<string, string>} */
const ADVICE = {
  WORKERS_SILENT: "No worker runs. Start one on any machine: hive worker.",
  HUB_UNAVAILABLE: "The Hub does not answer at the moment. What has arrived stays.",
  DOWNLOAD_TIMEOUT: "Nothing arrived for too long. A new try goes on from what is there.",
  DOWNLOAD_FAILED: "A new try goes on from what has arrived.",
  WORKER_LOST: "Its workers died. A new try goes on from what has arrived.",
  CHECKSUM_MISMATCH: "Nothing wrong was kept.",
};

/**
 * What can be done about an error.
 * @param {string} code @param {Record<string, any>} details
 * @param {{ again: (body: Record<string, string>) => Promise<unknown>, variant: (name: string) => Promise<unknown> }} acts
 *   `again`: try again, perhaps with `hf_token`; `variant`: have that quantisation in its place.
 */
export function mending(code, details, acts) {
  const box = el("div", { class: "mending" });
  if (ADVICE[code]) box.append(el("p", { text: ADVICE[code] }));
  // A `host` is none of the Hub's, and no token of the Hub opens it.
  if (code === "MODEL_ACCESS_DENIED" && !details.host) box.append(...gated(details, acts.again));
  else if (code === "VARIANT_NOT_FOUND" && Array.isArray(details.variants) && details.variants.length) {
    box.append(variants(details.variants, acts.variant));
  } else if (code === "DISK_FULL") box.append(...full(details, acts.again));
  else box.append(button("Try again", () => acts.again({}), { class: "primary" }));
  return box;
}

/** @param {Record<string, any>} details @param {(body: Record<string, string>) => Promise<unknown>} again */
function gated(details, again) {
  const field = el("input", { type: "password", name: "token", autocomplete: "off", placeholder: "hf_…", spellcheck: "false", required: true });
  const form = el(
    "form", { class: "token" },
    el("label", {}, el("span", { text: "A token of somebody who has accepted the terms" }), field),
    el("button", { type: "submit", class: "primary", text: "Try with the token" }),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await again({ hf_token: field.value.trim() });
      field.value = "";
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
  });
  const link = safeLink(details.page, "Open its page to accept its terms");
  return [...(link ? [el("p", {}, link)] : []), form];
}

/** @param {Variant[]} found @param {(name: string) => Promise<unknown>} choose */
function variants(found, choose) {
  const list = el("ul", { class: "choices" });
  for (const one of found.slice(0, 50)) {
    list.append(el("li", {}, button(`${one.name} · ${size(one.size)}`, () => choose(one.name))));
  }
  return list;
}

/** @param {Record<string, any>} details @param {(body: Record<string, string>) => Promise<unknown>} again */
function full(details, again) {
  const parts = [];
  if (typeof details.needed === "number") {
    parts.push(el("p", { text: `${size(details.needed)} are needed, ${size(details.available ?? 0)} may be taken.` }));
  }
  return [...parts, el("div", { class: "buttons" }, freeRoom(), button("Try again", () => again({})))];
}

/** A button that looks what could be removed, says how much that is, and removes it when it is pressed again. */
export function freeRoom() {
  const place = el("span", { class: "free-room" });
  place.append(button("Free room", async () => {
    const found = await operation("/v1/gc", { dry_run: true }, () => {});
    if (!found.removed) {
      say("There is nothing that nobody needs. Models that you do not use can be deleted below.");
      return;
    }
    place.append(careful(`Remove ${size(found.bytes)} of remains`, "Really remove?", async () => {
      const done = await operation("/v1/gc", {}, () => {});
      say(`${size(done.bytes)} are free again.`);
      place.lastElementChild?.remove();
    }, { class: "danger" }));
  }));
  return place;
}

/** Ask for a model again, as another variant. @param {string} ref @param {string} name */
export function askForVariant(ref, name) {
  return call("POST", "/v1/models/download", { model_ref: withVariant(ref, name) });
}

/** `hf:org/name@rev:Q4_K_M` with another quantisation. @param {string} ref @param {string} name */
export function withVariant(ref, name) {
  const match = /^(hf:)?([^/:@]+\/[^/:@]+)(@[^:]+)?/.exec(ref);
  return match ? `hf:${match[2]}${match[3] ?? ""}:${name}` : ref;
}
