// Judging by keyboard, and a brush on a canvas over the picture.
"use strict";
(() => {
  let strokes = [];
  let drawing = false;

  const canvas = () => document.querySelector("[data-brush]");
  const size = () => Number(document.querySelector("[data-brush-size]")?.value || 8);

  const redraw = () => {
    const pad = canvas();
    if (!pad) return;
    const ctx = pad.getContext("2d");
    ctx.clearRect(0, 0, pad.width, pad.height);
    ctx.lineCap = ctx.lineJoin = "round";
    ctx.strokeStyle = ctx.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--own").trim();
    for (const { width, points } of strokes) {
      ctx.lineWidth = width;
      ctx.beginPath();
      ctx.moveTo(...points[0]);
      for (const point of points) ctx.lineTo(...point);
      ctx.stroke();
      if (points.length === 1) { ctx.beginPath(); ctx.arc(...points[0], width / 2, 0, 7); ctx.fill(); }
    }
    const field = document.querySelector("[data-judge] input[name=mask]");
    field.value = strokes.length && !drawing ? pad.toDataURL("image/png") : field.value;
    if (!strokes.length) field.value = "";
  };

  const place = (event) => {
    const pad = canvas(), box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
  };

  document.addEventListener("pointerdown", (event) => {
    if (event.target !== canvas() || event.button !== 0) return;
    event.preventDefault();
    drawing = true;
    canvas().setPointerCapture(event.pointerId);
    strokes.push({ width: size(), points: [place(event)] });
    redraw();
  });
  document.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    strokes.at(-1).points.push(place(event));
    redraw();
  });
  const lift = () => { if (drawing) { drawing = false; redraw(); } };
  document.addEventListener("pointerup", lift);
  document.addEventListener("pointercancel", lift);

  const undo = () => { strokes.pop(); redraw(); };
  document.addEventListener("click", (event) => { if (event.target.closest("[data-brush-undo]")) undo(); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("textarea, input:not([type=range])")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const key = event.key.toLowerCase();
    const next = document.querySelector("[data-next]");
    if (next && (key === " " || key === "enter" || key === "n")) { event.preventDefault(); next.click(); return; }
    if (!document.querySelector("[data-judge]")) return;
    if (key === "u") { undo(); return; }
    if (key === "n") { event.preventDefault(); document.querySelector("[data-judge] textarea").focus(); return; }
    const button = document.querySelector(`[data-judge] [data-key="${CSS.escape(key)}"]`);
    if (button) { event.preventDefault(); button.click(); }
  });

  document.addEventListener("htmx:beforeRequest", () => document.querySelectorAll("[data-judge] button").forEach((one) => { one.disabled = true; }));
  document.addEventListener("htmx:afterSwap", () => {
    strokes = [];
    drawing = false;
    document.querySelector("[data-next]")?.focus();
  });
  // what was refused is told, and may be tried again
  document.addEventListener("htmx:responseError", (event) => {
    document.querySelectorAll("[data-judge] button").forEach((one) => { one.disabled = false; });
    const said = document.querySelector(".waiting");
    if (said) said.textContent = `Not stored (${event.detail.xhr.status}). Try again.`;
  });
  document.addEventListener("htmx:sendError", () => {
    document.querySelectorAll("[data-judge] button").forEach((one) => { one.disabled = false; });
    const said = document.querySelector(".waiting");
    if (said) said.textContent = "No contact with the page: not stored. Try again.";
  });
})();
