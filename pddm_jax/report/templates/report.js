"use strict";

function json(id) {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
}

// ------------------------------------------------------------------------------------------------ charts

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function draw() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim(), line = style.getPropertyValue("--line").trim();
  const words = {labelColor: text, titleColor: text};
  const config = {
    axis: {...words, gridColor: line, domainColor: line, tickColor: line},
    legend: words,
    view: {stroke: line},
  };
  for (const [name, spec] of Object.entries(json("charts"))) {
    const place = document.getElementById(`chart-${name}`);
    const options = {mode: "vega-lite", actions: false, renderer: "svg", config, tooltip: {theme: dark.matches ? "dark" : "light"}};
    vegaEmbed(place, spec, options).then(() => place.setAttribute("data-ready", "")).catch((error) => {
      place.textContent = `This chart cannot be drawn: ${error}`;
    });
  }
}

if (Object.keys(json("charts")).length) {
  draw();
  dark.addEventListener("change", draw);
}

// ----------------------------------------------------------------------------------------------- gallery

const PAGE = 10;

function figure(entry, thumbnails) {
  const element = document.createElement("figure");
  const url = thumbnails[entry.image];
  const picture = document.createElement(url ? "img" : "span");
  if (url) {
    picture.src = url;
    picture.alt = entry.name;
  } else {
    picture.className = "missing";
    picture.textContent = "no thumbnail";
  }
  const caption = document.createElement("figcaption");
  const line = (text, kind) => {
    const part = document.createElement("div");
    part.textContent = text;
    part.className = kind || "";
    caption.append(part);
  };
  if ("right" in entry) {
    element.className = entry.right ? "right" : "wrong";
    line(entry.right ? "✓ same class" : "✗ other class", "mark");
  } else {
    line("query", "mark");
  }
  line(entry.name);
  if ("distance" in entry) line(`distance ${entry.distance.toFixed(3)}`);
  if (entry.score !== null && entry.score !== undefined) line(`score ${entry.score.toFixed(3)}`);
  element.append(picture, caption);
  return element;
}

function gallery({gallery, thumbnails}) {
  const form = document.getElementById("filters"), list = document.getElementById("gallery");
  const previous = document.getElementById("previous"), next = document.getElementById("next");
  let page = 0;

  function matching() {
    const right = form.elements.right.value, part = form.elements.class.value.trim().toLowerCase();
    return gallery.filter((query) =>
      (right === "all" || query.neighbors[0].right === (right === "right")) &&
      [query, ...query.neighbors].some((entry) => entry.name.toLowerCase().includes(part)));
  }

  function show() {
    const queries = matching(), pages = Math.max(1, Math.ceil(queries.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const by = form.elements.order ? form.elements.order.value : "distance";
    const items = queries.slice(page * PAGE, (page + 1) * PAGE).map((query) => {
      const item = document.createElement("li");
      item.tabIndex = 0;
      const neighbors = [...query.neighbors];
      if (by === "score") neighbors.sort((a, b) => b.score - a.score);
      item.append(figure(query, thumbnails), ...neighbors.map((entry) => figure(entry, thumbnails)));
      return item;
    });
    list.replaceChildren(...items);
    document.getElementById("place").textContent =
      `page ${page + 1} of ${pages}, ${queries.length} of ${gallery.length} queries`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  function turn(pages) {
    page += pages;
    show();
  }

  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  form.elements.class.addEventListener("input", filter);
  for (const select of form.querySelectorAll("select")) select.addEventListener("change", filter);
  function filter() {
    page = 0;
    show();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

const data = json("data");
if (data && data.gallery.length) gallery(data);
