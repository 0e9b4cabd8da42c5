// Light or dark, before anything is drawn: no module, so that nothing flashes.
(() => {
  const CHOSEN = "hive-theme";
  const NAMES = /** @type {const} */ (["auto", "light", "dark"]);
  const root = document.documentElement;
  /** @param {string} name */
  const set = (name) => {
    root.dataset.theme = name;
    const button = document.querySelector("#theme");
    if (button) button.textContent = `Theme: ${name}`;
  };
  let chosen = localStorage.getItem(CHOSEN) ?? "auto";
  set(chosen);
  document.addEventListener("DOMContentLoaded", () => {
    set(chosen);
    document.querySelector("#theme")?.addEventListener("click", () => {
      chosen = NAMES[(NAMES.indexOf(/** @type {any} */ (chosen)) + 1) % NAMES.length] ?? "auto";
      localStorage.setItem(CHOSEN, chosen);
      set(chosen);
    });
  });
})();
