/** What is said: begin, end and failure in one status region, progress in the title, and a notification where it is wished. */

import { setText } from "./dom.js";
import { ENDED } from "./downloads.js";
import { percent } from "./format.js";

const WISHED = "hive-notify";
/** Milliseconds for which a message stands. */
const SHOWN_MS = 8000;

/** @param {import("./downloads.js").Downloads} downloads */
export function announce(downloads) {
  const region = /** @type {HTMLElement} */ (document.querySelector("#said"));
  let timer = 0;
  document.addEventListener("hive-say", (event) => {
    const { text, wrong } = /** @type {CustomEvent} */ (event).detail;
    setText(region, text);
    region.dataset.wrong = String(wrong);
    clearTimeout(timer);
    timer = setTimeout(() => { region.textContent = ""; }, SHOWN_MS);
  });
  /** @param {string} text @param {boolean} wrong */
  const tell = (text, wrong) => document.dispatchEvent(new CustomEvent("hive-say", { detail: { text, wrong } }));
  downloads.addEventListener("moved", (event) => {
    const { row, before } = /** @type {CustomEvent<{row: Row, before: string}>} */ (event).detail;
    if (!before && row.status === "queued") tell(`${row.name} is asked for.`, false);
    else if (row.status === "downloading" && (before === "resolving" || before === "queued")) tell(`${row.name} has begun.`, false);
    else if (row.status === "complete") { tell(`${row.name} is there.`, false); notify(`${row.name} is there`); }
    else if (row.status === "failed") { tell(`${row.name} failed: ${row.event.message ?? ""}`, true); notify(`${row.name} failed`); }
  });
  downloads.addEventListener("change", () => setTitle(downloads));
  bell();
}

/** @param {import("./downloads.js").Downloads} downloads */
function setTitle(downloads) {
  const running = [...downloads.rows.values()].filter((row) => !ENDED.has(row.status));
  const known = running.filter((row) => row.event.bytes_total);
  const total = known.reduce((sum, row) => sum + (row.event.bytes_total ?? 0), 0);
  const done = known.reduce((sum, row) => sum + (row.event.bytes_downloaded ?? 0), 0);
  const share = percent({ stage: "downloading", bytes_total: total, bytes_downloaded: done });
  const text = running.length === 0 ? "hive" : share === null ? `${running.length} waiting · hive` : `${share} % · hive`;
  if (document.title !== text) document.title = text;
}

/** The switch for notifications: off until somebody wants them, and the browser is asked only then. */
function bell() {
  const button = /** @type {HTMLButtonElement} */ (document.querySelector("#notify"));
  if (!("Notification" in globalThis)) { button.hidden = true; return; }
  const on = () => localStorage.getItem(WISHED) !== null && Notification.permission === "granted";
  const show = () => { button.setAttribute("aria-pressed", String(on())); };
  show();
  button.addEventListener("click", async () => {
    if (on()) localStorage.removeItem(WISHED);
    else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(WISHED, "1");
    else document.dispatchEvent(new CustomEvent("hive-say", { detail: { text: "The browser does not allow notifications here.", wrong: true } }));
    show();
  });
}

/** @param {string} text */
function notify(text) {
  if (document.hidden && localStorage.getItem(WISHED) !== null && Notification.permission === "granted") new Notification("hive", { body: text, tag: text });
}

