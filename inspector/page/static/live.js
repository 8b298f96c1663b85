// The live watch page: takes server-sent events, shows how old the picture is, and comes back by itself.
"use strict";
(() => {
  const root = document.querySelector("[data-live]");
  if (!root) return;
  const slot = (name) => root.querySelector(`[data-slot="${name}"]`);
  const ageLine = root.querySelector("[data-age]");
  const contact = root.querySelector("[data-contact]");
  const state = document.querySelector("[data-state]");
  const SILENT_MS = 4000;   // the server speaks every second
  const REOPEN_MS = 5000;

  let source = null;
  let opened = 0;
  let heard = performance.now();
  let wasLost = false;
  let age = null;            // {ms, at}: how old the picture was by the server's clock, and when that was heard
  let staleMs = Number(root.dataset.staleMs);
  let newest = 0;            // a picture that loads slowly must not overtake a newer one

  const words = (ms) => {
    if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
    if (ms < 60000) return `${Math.round(ms / 1000)} s`;
    if (ms < 3600000) return `${Math.floor(ms / 60000)} min ${Math.round(ms % 60000 / 1000)} s`;
    return `${Math.floor(ms / 3600000)} h ${Math.floor(ms % 3600000 / 60000)} min`;
  };

  const showPart = async (text) => {
    const cut = text.indexOf("\n");
    const head = JSON.parse(text.slice(0, cut));
    const at = performance.now();
    const turn = ++newest;
    const holder = document.createElement("template");
    holder.innerHTML = text.slice(cut + 1);
    const image = holder.content.querySelector("img");
    if (image) {
      // decoded before it is shown, so that the picture changes without a flicker
      const ready = new Image();
      ready.src = image.getAttribute("src");
      try { await ready.decode(); } catch { /* the part is shown all the same; its picture says what is missing */ }
    }
    if (turn !== newest) return;
    slot("part").replaceChildren(holder.content);
    age = { ms: head.age_ms, at };
    staleMs = head.stale_ms;
    root.dataset.shownAt = String(performance.timeOrigin + performance.now());
    showAge();
  };

  const put = (name, html) => {
    const place = slot(name);
    if (place.contains(document.activeElement) && document.activeElement.matches("button, input")) {
      // somebody is about to press it: wait until they have
      document.activeElement.addEventListener("blur", () => put(name, html), { once: true });
      return;
    }
    const holder = document.createElement("template");
    holder.innerHTML = html;
    place.replaceChildren(holder.content);
    if (window.htmx) htmx.process(place);
  };

  const tick = (text) => {
    const told = JSON.parse(text);
    const at = performance.now();
    if (told.version !== document.body.dataset.version) { location.reload(); return; }
    staleMs = told.stale_ms;
    if (told.age_ms !== null) age = { ms: told.age_ms, at };
    state.textContent = told.state + (told.calling ? ` · ${told.calling} to see` : "");
    state.classList.toggle("wrong", told.wrong);
    state.classList.toggle("calls", told.calling > 0);
  };

  const showAge = () => {
    const now = performance.now();
    const silent = now - heard;
    const lost = silent > SILENT_MS;
    if (lost) {
      contact.hidden = false;
      contact.textContent = `No contact with the page for ${words(silent)}. What you see is old. It comes back by itself.`;
      if (now - opened > REOPEN_MS) open();
    } else if (wasLost) {
      contact.hidden = true;
    }
    wasLost = lost;
    const ms = age === null ? null : age.ms + now - age.at;
    const stale = lost || (ms !== null && ms > staleMs);
    root.classList.toggle("stale", stale);
    if (ms === null) ageLine.textContent = "waiting for a part";
    else ageLine.textContent = stale ? `OLD PICTURE: no new part for ${words(ms)}` : `picture ${words(ms)} old`;
  };

  const on = (name, deed) => source.addEventListener(name, (event) => { heard = performance.now(); deed(event.data); });

  const open = () => {
    opened = performance.now();
    if (source) source.close();
    source = new EventSource("/live");
    on("part", showPart);
    for (const name of ["numbers", "alarms", "kinds"]) on(name, (html) => put(name, html));
    on("tick", tick);
    on("signed-out", () => location.reload());
    source.onerror = () => {
      // closed for good means an answer that is no stream: the login, or a page that is full
      if (source.readyState === EventSource.CLOSED) setTimeout(again, 2000);
    };
  };

  const again = async () => {
    try {
      const answer = await fetch("/watch", { redirect: "manual", headers: { Accept: "text/html" } });
      if (answer.type === "opaqueredirect") { location.reload(); return; }
    } catch { /* the server is away: tried again below */ }
    if (source.readyState === EventSource.CLOSED && performance.now() - opened > 1500) open();
  };

  open();
  setInterval(showAge, 200);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && performance.now() - heard > SILENT_MS) open(); });
  addEventListener("online", open);
})();
