/** The page: the stream and the lists at one end, the elements that show them at the other. */

import { announce } from "./announce.js";
import { say } from "./dom.js";
import { DownloadTable } from "./download-table.js";
import { Downloads } from "./downloads.js";
import { FleetPanel } from "./fleet-panel.js";
import { HistoryTable } from "./history-table.js";
import { watchForKey } from "./key-dialog.js";
import { MemoryPanel } from "./memory-panel.js";
import { ModelTable } from "./model-table.js";
import { PartialList } from "./partial-list.js";
import { PasteField } from "./paste-field.js";
import { Stream } from "./stream.js";

/** @template {HTMLElement} T @param {string} selector @param {new () => T} kind @returns {T} */
function find(selector, kind) {
  const found = document.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`The page has no ${selector}.`);
  return found;
}

const downloads = new Downloads(find("hive-downloads", DownloadTable));
const models = find("hive-models", ModelTable);
const memory = find("hive-memory", MemoryPanel);
const fleet = find("hive-fleet", FleetPanel);
const history = find("hive-history", HistoryTable);
const partials = find("hive-partials", PartialList);
const banner = find("#lost", HTMLElement);

find("hive-paste", PasteField).show(downloads);
find("hive-downloads", DownloadTable).show(downloads);
history.show(downloads);
models.show();
partials.show();
memory.show();
fleet.show();
announce(downloads);

const stream = new Stream((batch) => downloads.apply(batch), (state) => {
  banner.hidden = state === "open";
  document.documentElement.dataset.link = state;
  if (state === "open") lists();
});

/** What is not in the stream, which is there at the start, after an outage, and with another key. */
function lists() {
  for (const one of [downloads, models, partials, history, memory, fleet]) one.reading.soon(0);
}

downloads.addEventListener("moved", (event) => {
  const { row } = /** @type {CustomEvent<{row: Row}>} */ (event).detail;
  if (row.status === "complete") models.reading.soon(0);
});
document.addEventListener("hive-key-wanted", () => { banner.hidden = true; }); // there is a connection, and no key
watchForKey(() => stream.connect());
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "ApiError" || event.reason?.code) event.preventDefault();
  if (event.reason?.message && event.reason?.status !== 401) say(event.reason.message, true);
});
stream.connect();
