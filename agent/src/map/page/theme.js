// The theme: as the system has it, or as chosen here; kept in this browser.
"use strict";
(() => {
  const ORDER = ["system", "light", "dark"];
  const KEY = "culvert-theme";
  const stored = () => {
    // A browser that keeps nothing for this page throws here; the system's theme is right then.
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  let chosen = ORDER.includes(stored()) ? stored() : "system";

  function apply() {
    document.documentElement.dataset.theme = chosen;
    const text = document.getElementById("theme-text");
    if (text) text.textContent = `Theme: ${chosen}. Change`;
  }

  function next() {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    try { localStorage.setItem(KEY, chosen); } catch { /* it holds until the page is left */ }
    apply();
  }

  apply();
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", next);
  });
})();
