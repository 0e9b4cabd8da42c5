/**
 * The downloads that the page shows, by id: the stream's events over the API's records.
 *
 * An event says how far a download is; the record says what was asked for, which worker has it and its place in the
 * queue. So the list is read at first, when an event names a download that is not known, when a status changes, and
 * every few seconds while something waits. A record's own event may be older than what the stream said: then it is left.
 */

import { call } from "./api.js";
import { Reading } from "./reading.js";

/** Milliseconds between two readings while something is under way: where somebody looks, and where nobody does. */
const [AGAIN_MS, HIDDEN_MS] = [5000, 30000];
/** Pages of 200 downloads that are under way; failed ones of the last day that are shown; those looked up one by one. */
const [MAX_PAGES, MAX_FAILED, MAX_NAMED] = [5, 10, 50];
const DISMISSED = "hive-dismissed";

export const ENDED = new Set(["complete", "failed", "cancelled"]);

/** @param {DownloadEvent} event @param {string} otherwise */
function statusOf(event, otherwise) {
  if (event.status) return event.status;
  return { complete: "complete", error: "failed", downloading: otherwise }[event.stage] ?? otherwise;
}

/** What people call it: they need not be told that it is of the Hub. @param {DownloadRecord} record */
export const nameOf = (record) => record.name ?? record.model_ref.replace(/^hf:/, "");

export class Downloads extends EventTarget {
  /** @param {HTMLElement} place Where it is said that they cannot be read. */
  constructor(place) {
    super();
    this.reading = new Reading(place, () => this.reread());
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    /** Downloads that were heard of and are not known: they may have ended before the list is read. @type {Set<string>} */
    this.named = new Set();
    this.known = false;
    /** @type {string[]} */
    this.dismissed = JSON.parse(localStorage.getItem(DISMISSED) ?? "[]");
  }

  /** @param {Map<string, DownloadEvent>} batch */
  apply(batch) {
    /** @type {Row[]} */
    const changed = [];
    for (const [id, event] of batch) {
      const row = this.rows.get(id);
      if (!row) { this.look(id); continue; }
      const before = row.status;
      row.event = event;
      row.heard = true;
      row.status = statusOf(event, row.status);
      if (event.name) row.name = event.name;
      if (row.status !== before) this.moved(row, before);
      changed.push(row);
    }
    if (changed.length) this.dispatchEvent(new CustomEvent("change", { detail: changed }));
  }

  /** Show this download, whatever has become of it. @param {string} id */
  look(id) {
    if (this.named.size < MAX_NAMED && !this.dismissed.includes(id)) this.named.add(id);
    this.reading.soon();
  }

  /** @param {Row} row @param {string} before */
  moved(row, before) {
    this.reading.soon();
    this.dispatchEvent(new CustomEvent("moved", { detail: { row, before } }));
  }

  /** @returns {Promise<number | void>} Milliseconds until they are to be read again. */
  async reread() {
    const records = await this.read();
    const listed = new Set(records.map((record) => record.id));
    for (const record of records) this.merge(record);
    // What has ended while nobody listened.
    const gone = [...this.rows.values()].filter((row) => !listed.has(row.id) && !ENDED.has(row.status));
    for (const id of listed) this.named.delete(id); // and below one by one: those that are named meanwhile stay
    for (const id of [...gone.map((row) => row.id), ...this.named]) await this.ended(id).then(() => this.named.delete(id));
    this.known = true;
    this.dispatchEvent(new CustomEvent("change", { detail: [...this.rows.values()] }));
    if ([...this.rows.values()].some((row) => !ENDED.has(row.status))) return document.hidden ? HIDDEN_MS : AGAIN_MS;
  }

  /** @returns {Promise<DownloadRecord[]>} */
  async read() {
    /** @type {DownloadRecord[]} */
    const found = [];
    let cursor = "";
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const answer = await call("GET", `/v1/downloads?status=active&limit=200${cursor}`);
      found.push(...answer.data);
      if (!answer.next_cursor) break;
      cursor = `&cursor=${encodeURIComponent(answer.next_cursor)}`;
    }
    if (this.known) return found;
    const failed = (await call("GET", `/v1/downloads?status=failed&limit=${MAX_FAILED}`)).data;
    const over = new Set([...this.dismissed, ...found.map((record) => record.retry_of)]);
    return [...found, ...failed.filter((/** @type {DownloadRecord} */ one) => !over.has(one.id))];
  }

  /** @param {DownloadRecord} record */
  merge(record) {
    const row = this.rows.get(record.id);
    const event = record.progress ?? { stage: /** @type {const} */ ("downloading") };
    if (!row) {
      const made = { id: record.id, record, event, status: record.status, name: nameOf(record), heard: false };
      this.rows.set(record.id, made);
      if (this.known) this.dispatchEvent(new CustomEvent("moved", { detail: { row: made, before: "" } }));
      return;
    }
    row.record = record;
    row.name = nameOf(record);
    if (!row.heard || ENDED.has(record.status)) {
      const before = row.status;
      [row.event, row.status] = [event, record.status];
      if (before !== row.status) this.dispatchEvent(new CustomEvent("moved", { detail: { row, before } }));
    }
  }

  /** @param {string} id */
  async ended(id) {
    try {
      this.merge(await call("GET", `/v1/downloads/${id}`));
    } catch (error) {
      if (/** @type {any} */ (error).status !== 404) throw error;
      this.rows.delete(id);
    }
  }

  /** Show an ended download no more, here and after a reload. @param {Row} row */
  dismiss(row) {
    this.rows.delete(row.id);
    this.dismissed = [...this.dismissed, row.id].slice(-200);
    localStorage.setItem(DISMISSED, JSON.stringify(this.dismissed));
    this.dispatchEvent(new CustomEvent("change", { detail: [] }));
  }
}
