// The participants' page: consent, screen check, then one item after the other until the server has no more.
"use strict";

const main = document.getElementById("main");
const progress = document.getElementById("progress");
const trouble = document.getElementById("trouble");
const DARK_STEPS = 8;
const MOST_ZOOM = 8;
const GAP = 12;
const KEPT_HEIGHT = 190; // of the window, for question, buttons and patch

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function say(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The server stores an answer once, however often it is sent: so whatever failed is sent again.
async function ask(path, body) {
  const address = path + location.search;
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    try {
      const answer = await fetch(address, options);
      if (answer.ok) {
        say("");
        return await answer.json();
      }
      if (answer.status < 500) {
        say(await answer.text());
        return null;
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
    }
    say("The connection is lost; trying again…");
    await wait(pause);
  }
}

// ---- before the first item

function device() {
  const small = Math.min(screen.width, screen.height);
  const coarse = matchMedia("(pointer: coarse)").matches && !matchMedia("(any-pointer: fine)").matches;
  return coarse && small < 600 ? "phone" : coarse ? "tablet" : "desktop";
}

function darkSteps() {
  const strip = element("div", { class: "dark", role: "img", "aria-label": "Squares of dark grey on black" });
  for (let step = 1; step <= DARK_STEPS; step++) {
    strip.append(element("span", { style: `background: rgb(${4 * step} ${4 * step} ${4 * step})` }));
  }
  return strip;
}

function screenAdvice(joining) {
  const advice = [];
  const wanted = joining.pairs ? 2 * joining.picture_px / devicePixelRatio + 3 * GAP : 0;
  if (innerWidth < wanted) advice.push("Make the window as wide as you can.");
  if (!Number.isInteger(devicePixelRatio)) advice.push("Set the zoom of the browser to 100 % (Ctrl and 0).");
  if (device() === "phone" && joining.pairs) advice.push("On a computer you would be shown more pictures.");
  return advice.length ? advice.join(" ") : "The window is large enough.";
}

function showWelcome(joining) {
  const fields = Object.entries(joining.fields).map(([name, question]) =>
    element("label", {}, question, element("input", { name: `field ${name}`, maxlength: 1000 })));
  const steps = element("select", { name: "steps", required: true }, element("option", { value: "" }, "choose"));
  for (let count = 0; count <= DARK_STEPS; count++) steps.append(element("option", {}, String(count)));
  const advice = element("p", { id: "advice" }, screenAdvice(joining));
  addEventListener("resize", () => { advice.textContent = screenAdvice(joining); });
  const form = element("form", { class: "welcome", onsubmit: (event) => join(event, form) },
    ...joining.consent.split("\n").filter(Boolean).map((text) => element("p", {}, text)),
    ...fields,
    element("h2", {}, "Your screen"),
    advice,
    darkSteps(),
    element("label", {}, "How many grey squares do you see on the black bar?", steps),
    element("label", { class: "tick" }, element("input", { type: "checkbox", required: true }), "I have read this and want to take part."),
    element("button", { class: "go" }, "Begin"));
  main.replaceChildren(form);
}

async function join(event, form) {
  event.preventDefault();
  const given = new FormData(form);
  const fields = {};
  for (const [key, value] of given) if (key.startsWith("field ") && value.trim()) fields[key.slice(6)] = value.trim();
  form.querySelector("button").disabled = true;
  const state = await ask("api/join", {
    device: device(), screen: [screen.width, screen.height], window: [innerWidth, innerHeight],
    device_pixel_ratio: devicePixelRatio, colour_depth: screen.colorDepth,
    dark_steps_seen: Number(given.get("steps")), fields,
  });
  if (state) show(state);
  else form.querySelector("button").disabled = false;
}

// ---- items

let item = null; // what is on the screen

function show(state) {
  if (state.joining) return showWelcome(state.joining);
  if (state.done) {
    item = null;
    progress.textContent = "";
    main.replaceChildren(element("p", {}, state.thanks), element("p", {}, "Your code: ", element("strong", { id: "code" }, state.code)));
    return;
  }
  return showItem(state);
}

async function loaded(address) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
      say("");
      return image;
    } catch {
      say("A picture did not arrive; trying again…");
      await wait(pause);
    }
  }
}

async function showItem(state) {
  progress.textContent = `${state.position + 1} of ${state.total}`;
  main.classList.add("loading");
  const pictures = await Promise.all(state.pictures.map(loaded));
  main.classList.remove("loading");
  const width = pictures[0].naturalWidth, height = pictures[0].naturalHeight;
  item = { state, width, height, zoom: 1, mostZoom: 1, x: width / 2, y: height / 2, chosen: [], shownAt: null, panes: [] };
  for (const [place, picture] of pictures.entries()) item.panes.push(pane(place, picture, state));
  const children = [
    element("h2", { id: "question", tabindex: -1 }, state.question),
    element("p", { class: "quiet" }, (state.practice ? "Practice: this answer does not count. " : "") + help(state)),
    element("div", { class: `panes ${state.session}` }, ...item.panes.map((each) => each.figure)),
  ];
  if (state.session === "ranking") {
    children.push(element("p", { class: "actions" },
      element("button", { id: "undo", onclick: () => undo() }, "Undo"),
      element("button", { id: "done", class: "go", disabled: true, onclick: () => submit("pointer") }, "Done")));
  }
  main.replaceChildren(...children);
  document.getElementById("question").focus({ preventScroll: true });
  lay();
  // The frame after the next one is drawn once these pictures have been.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    item.shownAt = performance.now();
    main.dataset.ready = state.position;
    for (const each of item.panes) each.button.disabled = false;
  }));
  for (const address of state.next) new Image().src = address;
}

function help(state) {
  const look = "Drag to move all pictures, + and − to enlarge them.";
  return state.session === "pairs"
    ? `Choose by a click, or by ← and →. ${look}`
    : `Choose the best, then the next best, by clicks or keys 1 to ${state.pictures.length}; Backspace takes one back, Enter sends. ${look}`;
}

function pane(place, picture, state) {
  const name = state.session === "pairs" ? ["left", "right"][place] : String(place + 1);
  picture.alt = `Version ${name}`;
  picture.draggable = false;
  const frame = element("div", { class: "frame" });
  const view = element("div", { class: "view" }, picture, frame);
  const patch = element("div", { class: "patch", role: "img", "aria-label": `Enlarged part of version ${name}` });
  patch.style.backgroundImage = `url("${picture.src}")`;
  const button = element("button", { class: "choose", disabled: true, "data-place": place, onclick: (event) => choose(place, event.detail ? "pointer" : "key") },
    state.session === "pairs" ? "This one" : "Choose");
  const figure = element("figure", {}, view, button, patch);
  view.addEventListener("pointerdown", (event) => drag(event, view));
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(item.zoom + (event.deltaY < 0 ? 1 : -1));
  }, { passive: false });
  return { figure, view, picture, frame, patch, button };
}

// One image pixel is a whole number of device pixels, the same for all pictures.
function lay() {
  if (!item) return;
  const { state, panes, width, height } = item;
  const base = Math.max(1, Math.floor(devicePixelRatio));
  const perPixel = base * item.zoom / devicePixelRatio; // CSS pixels of an image pixel
  const natural = [width * base / devicePixelRatio, height * base / devicePixelRatio];
  const room = main.clientWidth - 2 * GAP; // its padding
  let columns = panes.length;
  if (state.session === "ranking" && columns * (natural[0] + GAP) > room) columns = 2;
  const paneWidth = Math.floor(Math.min(natural[0], (room - (columns - 1) * GAP) / columns));
  const paneHeight = Math.floor(Math.min(natural[1], Math.max(160, innerHeight - KEPT_HEIGHT)));
  const grid = main.querySelector(".panes");
  Object.assign(grid.style, { gridTemplateColumns: `repeat(${columns}, ${paneWidth}px)`, marginTop: "8px", marginLeft: `${Math.max(0, Math.floor((room - columns * (paneWidth + GAP) + GAP) / 2))}px` });
  for (const [side, margin] of [["top", "marginTop"], ["left", "marginLeft"]]) { // on the grid of device pixels
    const unit = Number.isInteger(devicePixelRatio) ? 1 : devicePixelRatio;
    const place = (grid.getBoundingClientRect()[side] + (side === "top" ? scrollY : scrollX)) * unit;
    grid.style[margin] = `${parseFloat(grid.style[margin]) + (Math.ceil(place - 1e-3) - place) / unit}px`;
  }
  const half = [paneWidth / perPixel / 2, paneHeight / perPixel / 2];
  item.x = Math.min(Math.max(item.x, half[0]), Math.max(half[0], width - half[0]));
  item.y = Math.min(Math.max(item.y, half[1]), Math.max(half[1], height - half[1]));
  const device = (value) => Math.round(value * devicePixelRatio) / devicePixelRatio;
  const left = device(paneWidth / 2 - item.x * perPixel), top = device(paneHeight / 2 - item.y * perPixel);
  const [y, x, side] = state.patch;
  const enlarged = Math.max(1, Math.min(state.patch_zoom, Math.floor(paneWidth / (side * base / devicePixelRatio)))) * base / devicePixelRatio;
  for (const each of panes) {
    each.view.style.width = `${paneWidth}px`;
    each.view.style.height = `${paneHeight}px`;
    each.picture.style.width = `${width * perPixel}px`;
    each.picture.style.transform = `translate(${left}px, ${top}px)`;
    Object.assign(each.frame.style, { width: `${side * perPixel}px`, height: `${side * perPixel}px`, transform: `translate(${left + x * perPixel}px, ${top + y * perPixel}px)` });
    Object.assign(each.patch.style, {
      width: `${side * enlarged}px`, height: `${side * enlarged}px`,
      backgroundSize: `${width * enlarged}px ${height * enlarged}px`, backgroundPosition: `${-x * enlarged}px ${-y * enlarged}px`,
    });
  }
  Object.assign(item, { perPixel, pane: [paneWidth, paneHeight], devicePixels: base * item.zoom });
}

function zoomTo(zoom) {
  item.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
  item.mostZoom = Math.max(item.mostZoom, item.zoom);
  lay();
}

function drag(start, view) {
  if (start.button) return;
  view.setPointerCapture(start.pointerId);
  let last = start;
  const move = (event) => {
    item.x -= (event.clientX - last.clientX) / item.perPixel;
    item.y -= (event.clientY - last.clientY) / item.perPixel;
    last = event;
    lay();
  };
  view.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => view.removeEventListener("pointermove", move), { once: true });
}

function choose(place, by) {
  if (!item || item.shownAt === null || item.chosen.includes(place) || !item.panes[place]) return;
  item.chosen.push(place);
  if (item.state.session === "pairs") return void submit(by);
  if (item.chosen.length === item.panes.length - 1) item.chosen.push(item.panes.findIndex((_, at) => !item.chosen.includes(at)));
  label();
}

function undo() {
  if (!item || item.state.session === "pairs" || !item.chosen.length) return;
  item.chosen.pop();
  if (item.chosen.length === item.panes.length - 1) item.chosen.pop(); // the last had come by itself
  label();
}

function label() {
  for (const [place, each] of item.panes.entries()) {
    const rank = item.chosen.indexOf(place) + 1;
    each.button.textContent = rank ? `Rank ${rank}` : "Choose";
    each.button.classList.toggle("ranked", Boolean(rank));
  }
  document.getElementById("done").disabled = item.chosen.length < item.panes.length;
}

async function submit(by) {
  if (!item || item.shownAt === null || (item.state.session === "ranking" && item.chosen.length < item.panes.length)) return;
  const answered = item;
  item = null; // a second key or click answers nothing
  for (const button of main.querySelectorAll("button")) button.disabled = true;
  const state = await ask("api/answer", {
    position: answered.state.position,
    choice: answered.chosen,
    reaction_ms: performance.now() - answered.shownAt,
    seen: {
      window: [innerWidth, innerHeight], picture: answered.pane, device_pixel_ratio: devicePixelRatio,
      zoom: answered.devicePixels, most_zoom: Math.max(1, Math.floor(devicePixelRatio)) * answered.mostZoom, by,
    },
  });
  if (state) show(state);
}

addEventListener("keydown", (event) => {
  if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
  const pairs = item.state.session === "pairs";
  const act = {
    ArrowLeft: () => pairs && choose(0, "key"),
    ArrowRight: () => pairs && choose(1, "key"),
    Backspace: undo,
    Enter: () => !pairs && event.target.tagName !== "BUTTON" && submit("key"),
    "+": () => zoomTo(item.zoom + 1),
    "=": () => zoomTo(item.zoom + 1),
    "-": () => zoomTo(item.zoom - 1),
    0: () => zoomTo(1),
  }[event.key] ?? (/^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1, "key") : null);
  if (!act || act() === false) return;
  if (event.key !== "Enter") event.preventDefault();
});
addEventListener("resize", lay);

ask("api/state").then((state) => state && show(state));
