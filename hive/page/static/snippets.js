/** How a model on the disk is used: lines to copy into other programs. */

import { button, copy, el } from "./dom.js";

/** A word for a shell. @param {string} text */
const quoted = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** @param {Model} model @returns {[string, string][]} */
function lines(model) {
  const repo = model.id.replace(/[@:].*$/, "");
  const here = location.origin;
  // What the Hub's tools find by its name in the cache; all else they take by its path.
  const name = /^(ollama|oci|modelscope)\./.test(repo) ? model.path : repo;
  const gguf = model.path.toLowerCase().endsWith(".gguf");
  /** @type {[string, string][]} */
  const found = [];
  if (gguf) {
    found.push(["llama.cpp", `llama-server -m ${quoted(model.path)}`]);
    found.push(["hive, in memory", `hive run ${quoted(model.id)}`]);
    found.push(["OpenAI client", `OpenAI(base_url=${JSON.stringify(`${here}/v1`)}, api_key="-").chat.completions.create(\n    model=${JSON.stringify(model.id)}, messages=[{"role": "user", "content": "Hello"}])`]);
  } else if (repo.startsWith("datasets/")) {
    found.push(["datasets", `from datasets import load_dataset\nload_dataset(${JSON.stringify(model.path)})`]);
  } else if (!/^(url|spaces)\//.test(repo)) {
    found.push(["vLLM", `vllm serve ${quoted(name)}`]);
    found.push(["transformers", `from transformers import AutoModel\nAutoModel.from_pretrained(${JSON.stringify(name)}, local_files_only=True)`]);
  }
  found.push(["another machine", `HIVE_HOST=${here} hive pull ${quoted(model.id)}`]);
  return found;
}

/** @param {Model} model */
export function snippets(model) {
  return lines(model).map(([name, text]) => el(
    "figure", { class: "snippet" },
    el("figcaption", { text: name }), el("pre", { tabindex: "0", "aria-label": name }, el("code", { text })),
    button("Copy", () => copy(text), { "aria-label": `Copy the lines for ${name}` }),
  ));
}
