// Draws what /trends.json tells, with uPlot; colours come from the style sheet, so both themes fit.
"use strict";
(() => {
  const box = document.querySelector("[data-charts]");
  if (!box || !window.uPlot) return;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = new Map();
  let data = null;
  let drawnFor = "";

  const verdictPoints = (data) => (plot, series) => {
    // PASS dots, FAIL squares, INVALID triangles: the shape says it too
    const { ctx } = plot;
    const xs = plot.data[0], ys = plot.data[series], size = 3 * devicePixelRatio;
    ctx.save();
    for (let i = 0; i < xs.length; i++) {
      if (ys[i] == null) continue;
      const x = plot.valToPos(xs[i], "x", true), y = plot.valToPos(ys[i], "y", true);
      const verdict = data.verdict[i];
      ctx.fillStyle = colour(verdict === "PASS" ? "--pass-line" : verdict === "FAIL" ? "--fail-line" : "--invalid-line");
      ctx.beginPath();
      if (verdict === "PASS") ctx.arc(x, y, size * 0.8, 0, 7);
      else if (verdict === "FAIL") ctx.rect(x - size, y - size, 2 * size, 2 * size);
      else { ctx.moveTo(x, y - size); ctx.lineTo(x + size, y + size); ctx.lineTo(x - size, y + size); }
      ctx.fill();
    }
    ctx.restore();
    return null;
  };

  // a line ends where no part came for long: between two runs nothing was measured. Values that are missing it spans.
  const silences = (plot) => {
    const xs = plot.data[0], gaps = [];
    const steps = Array.from(xs).slice(1).map((x, i) => x - xs[i]).sort((a, b) => a - b);
    const longest = Math.max(60, 10 * (steps[steps.length >> 1] ?? 0));
    for (let i = 1; i < xs.length; i++)
      if (xs[i] - xs[i - 1] > longest) uPlot.addGap(gaps, plot.valToPos(xs[i - 1], "x", true), plot.valToPos(xs[i], "x", true));
    return gaps;
  };
  const line = (label, name, more) => ({ label, stroke: colour(name), width: 1.5, points: { show: false }, gaps: silences, ...more });
  const dots = (label, data) => ({ label, stroke: colour("--text"), width: 0, paths: () => null, points: { show: verdictPoints(data) } });
  const STAGES = ["--stage-1", "--stage-2", "--stage-3", "--stage-4", "--stage-5", "--stage-6"];

  // [series, columns] of each chart; x is the same for all
  const kinds = {
    score: (d) => {
      const limit = d.x.map(() => d.threshold);
      const rule = line("threshold", "--quiet", { dash: [6, 4], gaps: () => [] });
      return d.verdict
        ? [[dots("score", d), rule], [d.score, limit]]
        : [[line("mean", "--accent"), line("highest", "--fail-line"), rule], [d.score, d.score_max, limit]];
    },
    area: (d) => d.verdict
      ? [[dots("area px", d)], [d.area]]
      : [[line("mean", "--accent"), line("largest", "--fail-line")], [d.area, d.area_max]],
    stages: (d) => {
      const names = Object.keys(d.stages_ms);
      const series = names.map((name, i) => line(name, STAGES[i % STAGES.length]));
      series.push(line("all", "--text", { width: 1 }));
      return [series, [...names.map((name) => d.stages_ms[name]), d.spent_ms]];
    },
    margin: (d) => [[line("margin", "--accent")], [d.margin_ms]],
    verdicts: (d) => [
      [line("PASS", "--pass-line"), line("FAIL", "--fail-line", { dash: [8, 3] }), line("INVALID", "--invalid-line", { dash: [2, 3] })],
      [d.pass, d.fail, d.invalid],
    ],
  };

  const two = (number) => String(number).padStart(2, "0");
  const times = (plot, splits, at, space, step) => splits.map((s) => {
    const day = new Date(s * 1000), clock = `${two(day.getHours())}:${two(day.getMinutes())}`;
    if (step < 60) return `${clock}:${two(day.getSeconds())}`;
    return step < 86400 ? clock : `${day.getDate()}.${day.getMonth() + 1}.`;
  });
  const axis = (more) => ({
    stroke: colour("--quiet"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--rule"), width: 1 }, ticks: { show: false }, ...more,
  });

  const make = (place, name) => {
    const [series, columns] = kinds[name](data);
    const options = {
      width: Math.max(220, place.clientWidth), height: Math.max(140, parseFloat(getComputedStyle(place).minHeight)),
      series: [{ value: "{HH}:{mm}:{ss}" }, ...series],
      axes: [axis({ space: 80, values: times }), axis({ size: 46 })],
      scales: { y: { range: (plot, min, max) => [Math.min(0, min ?? 0), max > 0 ? max * 1.08 : 1] } },
      legend: { show: name === "stages" || name === "verdicts" || !data.verdict && name !== "margin", live: false }, cursor: { drag: { x: false, y: false }, points: { show: false } },
    };
    place.replaceChildren();
    plots.set(name, new uPlot(options, [data.x, ...columns], place));
  };

  const signature = () => JSON.stringify([Object.keys(data.stages_ms), "verdict" in data, document.documentElement.dataset.theme]);

  const draw = (anew) => {
    const now = signature();
    anew = anew || now !== drawnFor || "verdict" in data;   // the dots' shapes belong to the data they were made for
    drawnFor = now;
    for (const place of box.querySelectorAll("[data-chart]")) {
      const name = place.dataset.chart;
      if (!data.x.length) { place.textContent = "No parts in this time."; plots.delete(name); continue; }
      if (anew || !plots.has(name)) { plots.get(name)?.destroy(); make(place, name); }
      else plots.get(name).setData([data.x, ...kinds[name](data)[1]]);
    }
  };

  const load = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(box.dataset.charts, { headers: { Accept: "application/json" } });
      if (!answer.ok) return;
      data = await answer.json();
      draw(false);
    } catch { /* the server is away; the next round asks again */ }
  };

  load();
  setInterval(load, 1000 * Number(box.dataset.every));
  document.addEventListener("visibilitychange", load);
  document.addEventListener("theme", () => { if (data) draw(true); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (data) draw(true); });
  let resizing = 0;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { if (data) draw(true); }, 150); });
})();
