/**
 * Elements made by hand. Whatever comes from elsewhere becomes a text node or an attribute that cannot run: there is no
 * way here to turn a string into markup, and the page's policy (trusted types) would refuse one.
 */

/** A text whose characters do what they look like: those that steer a terminal or turn the direction of what stands
 * around them are shown as what they are, unknown. Line ends and tabs stay.
 * @param {string} text */
export const harmless = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

/**
 * An element. `props`: `class`, `text`, listeners as `onclick`, properties of the element, else attributes.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = harmless(String(value));
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Set a text, where it is another one: at five events a second most are not.
 * @param {Node} node @param {string} text */
export function setText(node, text) {
  const shown = harmless(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/** Text of unknown script in a direction of its own, so that it does not turn what stands around it.
 * @param {string} text */
export const isolated = (text) => el("bdi", { text });

/** A link to another site, where the address is one of the web.
 * @param {unknown} address @param {string} text @returns {HTMLAnchorElement | null} */
export function safeLink(address, text) {
  try {
    const url = new URL(String(address));
    if (url.protocol !== "https:" && url.protocol !== "http:") return null;
    return el("a", { href: url.href, text, target: "_blank", rel: "noreferrer noopener" });
  } catch {
    return null;
  }
}

/** A button that runs something that may take a while: it cannot be pressed twice, and says what went wrong.
 * @param {string} text @param {() => Promise<unknown> | void} act @param {Record<string, any>} [props] */
export function button(text, act, props = {}) {
  const made = el("button", { type: "button", ...props, text });
  made.addEventListener("click", async () => {
    if (made.getAttribute("aria-disabled") === "true") return;
    made.setAttribute("aria-disabled", "true"); // not `disabled`: that would take the focus away
    try {
      await act();
    } catch (error) {
      say(error instanceof Error ? error.message : String(error), true);
    } finally {
      made.removeAttribute("aria-disabled");
    }
  });
  return made;
}

/** Milliseconds within which it is to be pressed again. */
const SURE_MS = 5000;

/** A button that asks again before it acts.
 * @param {string} text @param {string} sure @param {() => Promise<unknown>} act @param {Record<string, any>} [props] */
export function careful(text, sure, act, props = {}) {
  let asked = 0;
  /** @type {HTMLButtonElement} */
  const made = button(text, async () => {
    if (Date.now() - asked < SURE_MS) {
      await act();
      return;
    }
    asked = Date.now();
    show(sure);
    say(`${sure} Press again.`);
    setTimeout(() => show(text), SURE_MS);
  }, props);
  /** @param {string} shown */
  const show = (shown) => {
    made.textContent = shown;
    if (props["aria-label"]) made.setAttribute("aria-label", props["aria-label"].replace(text, shown));
  };
  return made;
}

/** Tell the person: read out, and shown for a while.
 * @param {string} text @param {boolean} [wrong] */
export function say(text, wrong = false) {
  document.dispatchEvent(new CustomEvent("hive-say", { detail: { text, wrong } }));
}

/** Put a text into the clipboard; where a page may not (plain http), say it, so that it can be marked by hand.
 * @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say(`This browser does not let the page copy. The text is: ${text}`);
  }
}
