/**
 * One EventSource for all downloads, whose events are handed on once per frame.
 *
 * Fifty rows at five events a second are 250 a second, and the screen shows sixty pictures: the newest event of each
 * download waits in a map, and one requestAnimationFrame hands all over. A page in the background gets no frames, but
 * its title and notifications go on, so there a timer does it.
 */

import { call } from "./api.js";

/** Milliseconds between two batches where nobody looks, and between two tries where the browser gave up. */
const HIDDEN_MS = 1000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 15000;

export class Stream {
  /** @param {(batch: Map<string, DownloadEvent>) => void} onBatch @param {(state: "open" | "lost") => void} onState */
  constructor(onBatch, onState) {
    this.onBatch = onBatch;
    this.onState = onState;
    /** @type {Map<string, DownloadEvent>} */
    this.pending = new Map();
    this.scheduled = false;
    this.retryMs = FIRST_RETRY_MS;
    /** @type {EventSource | null} */
    this.source = null;
    this.timer = 0;
    addEventListener("online", () => this.connect());
    addEventListener("offline", () => this.onState("lost"));
    // A page that is left, and one that comes back from the browser's memory.
    addEventListener("pagehide", () => this.source?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.connect(); });
  }

  connect() {
    clearTimeout(this.timer);
    this.source?.close();
    const source = new EventSource("/v1/downloads/progress?status=active");
    this.source = source;
    source.onopen = () => {
      this.retryMs = FIRST_RETRY_MS;
      this.onState("open");
    };
    source.onerror = () => {
      if (this.source !== source) return;
      this.onState("lost");
      if (source.readyState === EventSource.CLOSED) this.comeBack();
    };
    for (const kind of ["progress", "end"]) source.addEventListener(kind, (message) => this.take(message));
  }

  /** @param {MessageEvent} message */
  take(message) {
    const event = JSON.parse(message.data);
    this.pending.set(event.download_id, event);
    if (this.scheduled) return;
    this.scheduled = true;
    if (document.hidden) setTimeout(() => this.flush(), HIDDEN_MS);
    else {
      // A page that is hidden before its next picture gets none.
      const late = setTimeout(() => this.flush(), HIDDEN_MS);
      requestAnimationFrame(() => { clearTimeout(late); this.flush(); });
    }
  }

  flush() {
    if (!this.scheduled) return;
    this.scheduled = false;
    const batch = this.pending;
    this.pending = new Map();
    this.onBatch(batch);
  }

  /** The browser has given up, after a status that is no stream: a key is wanted, or a proxy answered for a server. */
  async comeBack() {
    const waitMs = this.retryMs;
    const timer = (this.timer = setTimeout(() => this.connect(), waitMs));
    this.retryMs = Math.min(MAX_RETRY_MS, this.retryMs * 2);
    try {
      await call("GET", "/v1/downloads?limit=1");
    } catch (error) {
      const { status, retryAfterMs } = /** @type {import("./api.js").ApiError} */ (error);
      if (this.timer !== timer) return; // somebody has connected meanwhile
      if (status === 401) clearTimeout(timer); // connected again with a key
      else if (retryAfterMs > waitMs) {
        clearTimeout(timer);
        this.timer = setTimeout(() => this.connect(), retryAfterMs);
      }
    }
  }
}
