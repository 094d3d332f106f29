"use strict";
// The curve of held-out loss, and the slider through the pictures. Both are told in full by the page without this.

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const moment = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });

function series(label, colour, dash, width) {
  return { label, stroke: colour, width, dash, spanGaps: true, points: { show: false }, value: (_, v) => (v == null ? "–" : v.toPrecision(4)) };
}

function drawCurve(place, curve, byTime, bins) {
  const points = [...curve.points].sort((a, b) => (byTime ? a.at_ms - b.at_ms : a.images - b.images));
  const across = points.map((p) => (byTime ? p.at_ms / 1000 : p.images));
  const colours = ["--accent", "--second", "--seen3", "--out", "--quiet"].map(ink);
  const lines = bins
    ? curve.times.map((t, i) => [series(`t = ${t}`, colours[i % colours.length], i % 2 ? [6, 4] : undefined, 2), points.map((p) => p.bins[i] ?? null)])
    : [
        [series("average", colours[0], undefined, 2.5), points.map((p) => p.ema)],
        [series("raw", colours[1], [6, 4], 1.5), points.map((p) => p.raw)],
      ];
  for (const [line, values] of lines) line.points = { show: values.length < 40, size: 6 };
  const axis = { stroke: ink("--quiet"), grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line"), width: 1 }, font: "12px system-ui" };
  place.replaceChildren();
  return new uPlot(
    {
      width: place.clientWidth,
      height: 260,
      tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "UTC"),
      scales: { x: { time: byTime } },
      cursor: { y: false },
      series: [{ label: byTime ? "time" : "images", value: (_, v) => (v == null ? "–" : byTime ? moment.format(v * 1000) : whole.format(v)) }, ...lines.map(([line]) => line)],
      axes: [byTime ? axis : { ...axis, values: (_, ticks) => ticks.map((v) => short.format(v)) }, { ...axis, size: 56, values: (_, ticks) => ticks.map((v) => short.format(v)) }],
    },
    [across, ...lines.map(([, values]) => values)],
    place,
  );
}

async function enhanceCurve(section) {
  const place = section?.querySelector("[data-chart]");
  if (!place) return;
  const answer = await fetch(place.dataset.chart).catch(() => null);
  if (!answer || !answer.ok) return;
  const curve = await answer.json();
  const choices = section.querySelector("[data-chart-choices]");
  choices.hidden = false;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", "Curve of the held-out loss; the table below says the same.");
  place.textContent = " ";
  const chosen = (name) => choices.querySelector(`[name=${name}]:checked`);
  let chart = null;
  const redraw = () => {
    chart?.destroy();
    chart = drawCurve(place, curve, chosen("across").value === "time", chosen("bins") !== null);
  };
  redraw();
  choices.addEventListener("change", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => {
    if (chart && place.clientWidth && Math.abs(chart.width - place.clientWidth) > 1) chart.setSize({ width: place.clientWidth, height: 260 });
  }).observe(place);
}

function enhancePictures(section) {
  const figure = section?.querySelector("[data-slider]");
  const grids = [...(section?.querySelectorAll("[data-picture]") ?? [])];
  if (!figure || grids.length < 2) return;
  const label = figure.querySelector(".slider");
  const slider = label.querySelector("input");
  const image = figure.querySelector("img");
  label.hidden = false;
  slider.addEventListener("input", () => {
    const grid = grids[Number(slider.value)];
    image.src = grid.dataset.preview;
    image.parentElement.href = grid.href;
    image.alt = grid.dataset.picture;
    figure.querySelector("output").textContent = grid.textContent;
    slider.setAttribute("aria-valuetext", grid.textContent);
  });
}

enhanceCurve(document.getElementById("curve"));
enhancePictures(document.getElementById("pictures"));
document.addEventListener("refreshed", (event) => {
  if (event.detail.id === "curve") enhanceCurve(event.detail);
  if (event.detail.id === "pictures") enhancePictures(event.detail);
});
