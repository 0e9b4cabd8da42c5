/**
 * The handle by which what waits is moved: dragged by mouse, pen or finger, or by the arrow keys.
 *
 * The drag and drop of HTML knows no fingers, and gives the page a picture instead of the row. Pointer events know all
 * three; while one is held a line shows where the row would come, and nothing moves before it is let go.
 */

import { el, say } from "./dom.js";

/** Pixels from the window's edges within which dragging scrolls, and how far at a time. */
const [EDGE_PX, SCROLL_PX] = [48, 12];

/** @typedef {{ side: "before" | "behind", node: HTMLElement }} Goal */

/**
 * @param {string} name what is moved
 * @param {HTMLElement} node its row
 * @param {(side: "before" | "behind", id: string) => Promise<unknown>} move
 */
export function queueHandle(name, node, move) {
  const handle = el("button", {
    type: "button", class: "handle", "aria-label": `Move ${name}`, title: "Drag, or press arrow up or down", "aria-keyshortcuts": "ArrowUp ArrowDown",
  });
  /** @type {Goal | null} */
  let goal = null;

  /** @param {Goal | null} to */
  const act = async (to) => {
    const id = to?.node.dataset.id;
    if (!to || !id || handle.getAttribute("aria-disabled") === "true") return;
    handle.setAttribute("aria-disabled", "true");
    try {
      await move(to.side, id);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    } finally {
      handle.removeAttribute("aria-disabled");
      if (handle.isConnected) handle.focus();
    }
  };
  /** @param {Goal | null} to */
  const mark = (to) => {
    goal?.node.removeAttribute("data-drop");
    goal = to;
    goal?.node.setAttribute("data-drop", goal.side);
  };
  /** @param {boolean} drop */
  const end = (drop) => {
    const to = goal;
    mark(null);
    node.removeAttribute("data-dragged");
    if (drop) act(to);
  };

  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    handle.setPointerCapture(event.pointerId);
    node.setAttribute("data-dragged", "");
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId) || !node.hasAttribute("data-dragged")) return;
    if (event.clientY < EDGE_PX) scrollBy(0, -SCROLL_PX);
    else if (event.clientY > innerHeight - EDGE_PX) scrollBy(0, SCROLL_PX);
    mark(goalAt(node, event.clientY));
  });
  handle.addEventListener("pointerup", () => end(true));
  handle.addEventListener("pointercancel", () => end(false));
  handle.addEventListener("keydown", (event) => {
    if (event.key === "Escape") end(false);
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    const rows = waiting(node);
    const next = rows[rows.indexOf(node) + (event.key === "ArrowUp" ? -1 : 1)];
    if (next) act({ side: event.key === "ArrowUp" ? "before" : "behind", node: next });
  });
  return handle;
}

/** The rows of what waits, in their order. @param {HTMLElement} node one of them */
const waiting = (node) => /** @type {HTMLElement[]} */ ([...(node.parentElement?.children ?? [])]).filter((row) => row.dataset.status === "queued");

/** Where a row that is let go at this height would come; null where it is. @param {HTMLElement} node @param {number} y @returns {Goal | null} */
function goalAt(node, y) {
  const rows = waiting(node);
  const at = rows.indexOf(node);
  const below = rows.findIndex((row) => {
    const { top, height } = row.getBoundingClientRect();
    return y < top + height / 2;
  });
  const to = below < 0 ? rows.length : below;
  if (to === at || to === at + 1) return null;
  const next = rows[to];
  if (next) return { side: "before", node: next };
  return { side: "behind", node: /** @type {HTMLElement} */ (rows[rows.length - 1]) };
}
