/** A plan for the eye: what would come, how large it is, whether it fits, and what could be had in its place. */

import { button, copy, el, isolated, safeLink } from "./dom.js";
import { counted, size } from "./format.js";

/** Files that are listed one by one. */
const MAX_FILES = 200;

/** @param {Plan} plan
 * @param {{ variant: (name: string) => unknown, start: () => Promise<unknown>, close: () => void }} acts */
export function planView(plan, acts) {
  const start = button(plan.local_path ? "On disk already" : `Download ${size(plan.bytes_missing)}`, acts.start, { class: "primary" });
  if (plan.local_path) start.hidden = true;
  const page = plan.repo && !/^(ollama|oci|modelscope)\./.test(plan.repo) ? safeLink(`https://huggingface.co/${plan.repo}`, "Its page, with licence and terms") : null;
  return [
    el("h2", {}, isolated(plan.name)),
    el("p", { class: "sum", text: sums(plan) }),
    ...room(plan),
    ...(plan.local_path ? [el("p", {}, el("code", {}, isolated(plan.local_path)))] : []),
    ...(plan.variants && plan.variants.length > 1 ? [variants(plan, plan.variants, acts.variant)] : []),
    files(plan),
    el("div", { class: "buttons" }, start,
      plan.local_path && button("Copy path", () => copy(plan.local_path ?? "")), button("Close", acts.close), page),
  ];
}

/** @param {Plan} plan */
function sums(plan) {
  const parts = [counted(plan.files.length, "file"), size(plan.bytes_total)];
  if (plan.bytes_missing === 0) parts.push("all on disk");
  else if (plan.bytes_missing !== null && plan.bytes_missing !== plan.bytes_total) parts.push(`${size(plan.bytes_missing)} to download`);
  if (plan.license) parts.push(`licence ${plan.license}`);
  return parts.join(" · ");
}

/** @param {Plan} plan */
function room(plan) {
  if (!plan.room || plan.bytes_missing === 0) return [];
  const { available, enough } = plan.room;
  if (!enough) return [el("p", { class: "wrong", text: `It does not fit: ${size(available)} may be taken. Delete models below, or free room.` })];
  const left = plan.bytes_missing === null ? available : available - plan.bytes_missing;
  return [el("p", { class: "quiet", text: `It fits: ${size(left)} are left for others.` })];
}

/** @param {Plan} plan @param {Variant[]} found @param {(name: string) => unknown} choose */
function variants(plan, found, choose) {
  const set = el("fieldset", { class: "variants" }, el("legend", { text: "Variants: smaller ones are faster and less exact" }));
  const largest = Math.max(...found.map((one) => one.size));
  for (const one of [...found].sort((a, b) => a.size - b.size)) {
    const radio = el("input", { type: "radio", name: "variant", value: one.name, checked: one.name === plan.variant });
    radio.addEventListener("change", () => choose(one.name));
    set.append(el("label", {}, radio, el("span", { class: "what" }, isolated(one.name)),
      el("meter", { min: 0, max: largest, value: one.size, "aria-hidden": "true" }), el("span", { class: "size", text: size(one.size) })));
  }
  return set;
}

/** @param {Plan} plan */
function files(plan) {
  const list = el("ul", { class: "files" });
  for (const file of plan.files.slice(0, MAX_FILES)) {
    list.append(el("li", {}, isolated(file.path), el("span", { class: "size", text: size(file.size) + (file.on_disk ? ", on disk" : "") })));
  }
  if (plan.files.length > MAX_FILES) list.append(el("li", { text: `and ${plan.files.length - MAX_FILES} more` }));
  return el("details", {}, el("summary", { text: "Files" }), list);
}
