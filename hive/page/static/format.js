/** Figures as people read them. */

/** @type {[number, string][]} */
const UNITS = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

/** Bytes, in decimal units as disks are sold. @param {number | null | undefined} count */
export function size(count) {
  if (count === null || count === undefined) return "unknown size";
  const unit = UNITS.find(([bytes]) => count >= bytes);
  return unit ? `${(count / unit[0]).toFixed(1)} ${unit[1]}` : `${count} B`;
}

/** @param {number | undefined} perSecond */
export const speed = (perSecond) => (perSecond ? `${size(perSecond)}/s` : "");

/** A span of time in two units at most. @param {number | null | undefined} seconds */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago a moment was. @param {number | null | undefined} unixSeconds */
export function ago(unixSeconds) {
  if (!unixSeconds) return "";
  const s = Date.now() / 1000 - unixSeconds;
  return s < 45 ? "just now" : `${span(s).split(" ").slice(0, 2).join(" ")} ago`;
}

/** @param {number} count @param {string} what */
export const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

/** What there is, by its kind: "2 models, 1 data set". @param {string[]} ids */
export function countedKinds(ids) {
  const kinds = ids.map((id) => (id.startsWith("datasets/") ? "data set" : id.startsWith("spaces/") ? "Space" : "model"));
  const found = ["model", "data set", "Space"].map((kind) => ({ kind, count: kinds.filter((one) => one === kind).length }));
  return found.filter(({ count }) => count).map(({ kind, count }) => counted(count, kind)).join(", ");
}

/** Part of a whole in percent; null where the whole is not known. @param {DownloadEvent} event */
export function percent(event) {
  if (event.stage === "complete") return 100;
  if (!event.bytes_total) return null;
  return Math.min(100, Math.floor(((event.bytes_downloaded ?? 0) * 100) / event.bytes_total));
}
