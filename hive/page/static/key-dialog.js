/** Where keys are on: the key is asked for once, and a session's cookie stands for it. The page keeps no key. */

import { call } from "./api.js";
import { el } from "./dom.js";

const SIGNED_IN = "hive-session";

/** Ask for a key whenever the server wants one; `onIn` runs when there is a session. @param {() => void} onIn */
export function watchForKey(onIn) {
  const dialog = /** @type {HTMLDialogElement} */ (document.querySelector("dialog#key"));
  const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
  const field = /** @type {HTMLInputElement} */ (form.querySelector("input"));
  const wrong = el("p", { class: "wrong", role: "alert" });
  form.prepend(wrong);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it
  document.addEventListener("hive-key-wanted", () => {
    localStorage.removeItem(SIGNED_IN);
    if (!dialog.open) dialog.showModal();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    try {
      await signIn(field.value.trim());
    } catch (error) {
      wrong.textContent = /** @type {Error} */ (error).message;
      field.select();
      return;
    }
    field.value = "";
    dialog.close();
    onIn();
  });
  watchSignOut();
}

/** @param {string} key */
async function signIn(key) {
  await call("POST", "/v1/session", undefined, { authorization: `Bearer ${key}` });
  localStorage.setItem(SIGNED_IN, "1");
  document.dispatchEvent(new CustomEvent("hive-signed-in"));
}

function watchSignOut() {
  const out = /** @type {HTMLButtonElement} */ (document.querySelector("#sign-out"));
  const show = () => { out.hidden = localStorage.getItem(SIGNED_IN) === null; };
  show();
  document.addEventListener("hive-signed-in", show);
  out.addEventListener("click", async () => {
    await call("DELETE", "/v1/session");
    localStorage.removeItem(SIGNED_IN);
    location.reload();
  });
}
