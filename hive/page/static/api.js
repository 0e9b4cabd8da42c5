/** The HTTP API over fetch: docs/api.md. Requests carry the session's cookie, and JSON, which no foreign page can send. */

/** Milliseconds for an answer to a question that changes nothing, and that a Retry-After is followed at most. */
const [ANSWER_MS, MAX_RETRY_AFTER_MS] = [60_000, 3_600_000];

const BROKEN_OFF = "The answer was broken off. Ask again.";

export class ApiError extends Error {
  /** @param {string} code @param {string} message @param {Record<string, any>} details @param {number} status 0 where
   *   nothing was answered. @param {number} [retryAfterMs] How long the server asks to be left alone. */
  constructor(code, message, details, status, retryAfterMs = 0) {
    super(message);
    this.retryAfterMs = retryAfterMs;
    this.code = code;
    this.details = details;
    this.status = status;
  }
}

/** Ask, and give the answer once its head is there. Raises ApiError.
 * @param {string} method @param {string} path @param {unknown} [body] @param {AbortSignal} [signal]
 * @param {Record<string, string>} [headers] */
async function ask(method, path, body, signal, headers = {}) {
  const sent = body === undefined ? undefined : JSON.stringify(body);
  if (sent !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent, signal, cache: "no-store" });
  } catch (error) {
    throw unanswered(error, "The server does not answer. The page goes on when it is back.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** What to raise where an answer does not come, or not whole: who stopped it himself is told nothing.
 * @param {unknown} error @param {string} text */
function unanswered(error, text) {
  return /** @type {any} */ (error).name === "AbortError" ? error : new ApiError("UNREACHABLE", text, {}, 0);
}

/** Retry-After, seconds or a date, in milliseconds; 0 where there is none. @param {string | null} value */
function retryAfter(value) {
  if (!value) return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Math.min(MAX_RETRY_AFTER_MS, Math.max(0, ms || 0));
}

/** @param {Response} answer */
async function refusal(answer) {
  let said;
  try {
    said = (await answer.json()).error;
  } catch {
    said = null;
  }
  const error = new ApiError(
    said?.code ?? "UNREACHABLE", said?.message ?? `The server answered ${answer.status}.`, said?.details ?? {}, answer.status,
    retryAfter(answer.headers.get("retry-after")),
  );
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("hive-key-wanted", { detail: error }));
  return error;
}

/** The JSON that is answered; null where there is none. Raises ApiError.
 * @param {string} method @param {string} path @param {unknown} [body] @param {Record<string, string>} [headers]
 * @returns {Promise<any>} */
export async function call(method, path, body, headers) {
  const answer = await ask(method, path, body, method === "GET" ? AbortSignal.timeout(ANSWER_MS) : undefined, headers);
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    throw unanswered(error, "The answer was broken off, or is not hive's.");
  }
}

/** Each line of an answer that is written as the work goes on. Raises ApiError.
 * @param {string} path @param {unknown} body @param {(line: string) => void} onLine @param {AbortSignal} [signal] */
async function lines(path, body, onLine, signal) {
  const answer = await ask("POST", path, body, signal);
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => { throw unanswered(error, BROKEN_OFF); });
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    parts.forEach(onLine);
  }
}

/** A long operation, told line by line; gives the last line. Raises ApiError.
 * @param {string} path @param {unknown} body @param {(line: any) => void} onLine
 * @returns {Promise<any>} */
export async function operation(path, body, onLine) {
  /** @type {any} */
  let last = null;
  await lines(path, body, (text) => {
    if (!text) return;
    last = JSON.parse(text);
    onLine(last);
  });
  if (last?.event === "error") throw new ApiError(last.code, last.message, last.details ?? {}, 200);
  if (last?.event !== "end") throw new ApiError("UNREACHABLE", BROKEN_OFF, {}, 0);
  return last;
}

/** The events of an answer to a POST, which no EventSource can ask. Raises ApiError.
 * @param {string} path @param {unknown} body @param {(event: any) => void} onEvent @param {AbortSignal} signal */
export async function events(path, body, onEvent, signal) {
  await lines(path, body, (text) => {
    if (text.startsWith("data: ") && text !== "data: [DONE]") onEvent(JSON.parse(text.slice(6)));
  }, signal);
}

/** An id in an address, its slashes as they are. @param {string} id */
export const inPath = (id) => id.split("/").map(encodeURIComponent).join("/");
