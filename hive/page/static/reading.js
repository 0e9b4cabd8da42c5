/**
 * A region of the page that is read until it is there.
 *
 * Problem: a region that could not be read (a limit of requests, a replica that restarts, a network that is away) stood
 * empty or old until something else had it read, and said nothing. The easy way, a fixed interval, has every tab ask a
 * server that is overloaded at once, and earlier than it asked for. So every region reads through one of these: what may
 * pass is tried again by itself, after waits that grow to a bound and differ between tabs, never before the server's
 * Retry-After, and the region says what is wrong and when it is read again. A key that is missing or may not see it is
 * no matter of time: the key's dialogue has all read again.
 */

import { ApiError } from "./api.js";
import { button, el, say, setText } from "./dom.js";

/** Milliseconds before the second try, twice as many before each later one, and at most. A quarter of it is by chance. */
const [FIRST_MS, MAX_MS, CHANCE] = [2000, 30000, 0.25];

/** Milliseconds from a wish to the reading: several wishes that come together are one. */
const SOON_MS = 300;

/** Whether the same question may be answered another time. @param {unknown} error */
const passes = (error) => !(error instanceof ApiError) || error.status < 400 || error.status === 429 || error.status >= 500;

export class Reading {
  /** @param {HTMLElement} place The region, where failures are said. @param {() => Promise<number | void>} read Reads and
   *   shows; gives the milliseconds until it is to be read again, or nothing where somebody else will ask.
   * @param {() => boolean} [seen] Whether anybody can see it: what nobody sees is not read. */
  constructor(place, read, seen = () => true) {
    this.place = place;
    this.read = read;
    this.seen = seen;
    this.known = false;
    this.tries = 0;
    this.timer = 0;
    /** When it is read next, and when at the earliest, by the clock that is never set. */
    this.due = Infinity;
    this.earliest = 0;
    this.wanted = false;
    /** @type {Promise<void> | null} */
    this.running = null;
    this.text = el("span");
    this.note = el("p", { class: "unread" }, this.text, button("Try now", () => this.now()));
  }

  /** Read within these milliseconds, or when the server's Retry-After is over. @param {number} [ms] */
  soon(ms = SOON_MS) {
    const due = Math.max(performance.now() + ms, this.earliest);
    if (due >= this.due) return;
    clearTimeout(this.timer);
    this.due = due;
    this.timer = setTimeout(() => this.now(), due - performance.now());
  }

  /** Read now, and once more where a reading is under way, whose answer may be older than the wish. Done when it is read
   * or its failure is said; never rejected. */
  now() {
    this.wanted = true;
    this.running ??= this.rounds().finally(() => { this.running = null; });
    return this.running;
  }

  async rounds() {
    while (this.wanted) {
      this.wanted = false;
      clearTimeout(this.timer);
      this.due = Infinity;
      this.earliest = 0;
      if (!this.seen()) { this.clear(); return; }
      try {
        const next = await this.read();
        this.known = true;
        this.clear();
        if (typeof next === "number") this.soon(next);
      } catch (error) {
        this.failed(error);
      }
    }
  }

  clear() {
    this.tries = 0;
    if (this.note.contains(document.activeElement)) {
      this.place.tabIndex = -1;
      this.place.focus({ preventScroll: true }); // or the next Tab would begin at the top of the page
    }
    this.note.remove();
    delete this.place.dataset.unread;
  }

  /** @param {unknown} error */
  failed(error) {
    const refused = error instanceof ApiError ? error : null;
    if (!refused) reportError(error); // a mistake of the page, or an answer that is none of this API
    if (refused?.status === 401) return;
    const text = refused?.message ?? "The page cannot read what the server answered.";
    if (this.tries === 0 && refused?.status !== 0) say(text, true); // without a connection the banner speaks
    let next = "";
    if (passes(error)) {
      const told = refused?.retryAfterMs ?? 0;
      const waitMs = Math.max(told, Math.min(MAX_MS, FIRST_MS * 2 ** this.tries)) * (1 + CHANCE * Math.random());
      if (told) this.earliest = performance.now() + told;
      next = ` It is read again at ${new Date(Date.now() + waitMs).toLocaleTimeString()}.`;
      this.soon(waitMs);
    }
    this.tries += 1;
    setText(this.text, `${text}${this.known ? " What is shown may be old." : ""}${next}`);
    this.place.dataset.unread = this.known ? "old" : "never";
    if (this.note.isConnected) return;
    const bar = this.place.querySelector(":scope > .bar"); // which stands beside the heading where there is room
    if (bar) bar.after(this.note);
    else this.place.prepend(this.note);
  }
}
