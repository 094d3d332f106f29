"use strict";
// What moves: texts and bars from the run's events as they are; and, when there is a new version, whatever else of the page
// can change, from the page itself as it is now. Each browser waits a little for that, by chance, so that not all ask at once.

const REFRESH_SPREAD_MS = 4000;
const source = document.querySelector("[data-events]");
let version = null;
let refreshing = null;

function show(update) {
  for (const place of document.querySelectorAll("[data-live]")) {
    const text = update.words[place.dataset.live];
    if (text !== undefined && place.textContent !== text) {
      place.textContent = text;
      if (place.classList.contains("alert")) place.hidden = text === "";
    }
  }
  for (const bar of document.querySelectorAll("[data-live-value]")) bar.value = update.numbers[bar.dataset.liveValue];
  if (version !== null && version !== update.version) refreshSoon();
  version = update.version;
}

function refreshSoon() {
  refreshing ??= setTimeout(refresh, Math.random() * REFRESH_SPREAD_MS);
}

async function refresh() {
  refreshing = null;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer || !answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-refresh]")) {
    const fresh = page.getElementById(old.id);
    const slider = old.querySelector("input[type=range]");
    if (!fresh || old.contains(document.activeElement) || (slider && slider.value !== slider.max)) continue;
    for (const opened of old.querySelectorAll("details")) {
      const same = fresh.querySelectorAll("details")[[...old.querySelectorAll("details")].indexOf(opened)];
      if (same) same.open = opened.open;
    }
    old.replaceWith(fresh);
    document.dispatchEvent(new CustomEvent("refreshed", { detail: fresh }));
  }
}

if (source) {
  const events = new EventSource(source.dataset.events);
  events.addEventListener("live", (event) => {
    show(JSON.parse(event.data));
    if ("refreshAlways" in source.dataset) refreshSoon();
  });
}
