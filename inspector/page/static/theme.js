// Runs before the page is painted, so that it does not flash in the other theme.
"use strict";
(() => {
  const kept = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const apply = (theme) => { if (theme) document.documentElement.dataset.theme = theme; };
  apply(kept());
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = dark ? "light" : "dark";
    apply(theme);
    try { localStorage.setItem("theme", theme); } catch { /* a private window keeps nothing */ }
    document.dispatchEvent(new CustomEvent("theme"));
  });
})();
