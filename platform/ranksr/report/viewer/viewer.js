"use strict";
// Pictures of several methods under one zoom and pan: side by side, with a slider, in turns, or as a difference.
// window.GALLERY (gallery.js, written by report/gallery.py) says what there is. Works from file://, so nothing is fetched.
(() => {
  const gallery = window.GALLERY;
  const root = document.querySelector(".viewer");
  if (!gallery || !root || !gallery.images.length) return;

  const ZOOMS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]; // device pixels a pixel: whole above 1, so exact
  const MODES = { side: "side by side", slider: "slider", flicker: "flicker", difference: "difference" };
  const MOST = 6;
  const byId = new Map(gallery.images.map((image) => [image.id, image]));
  const state = {
    image: gallery.images[0].id, methods: gallery.shown.slice(0, MOST), mode: "side",
    zoom: 2, x: 0, y: 0, // zoom 0: the whole picture; x, y: the pixel of the HR image in the middle of every port
    split: 0.5, gain: 4, sort: "name", turn: 0,
  };

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  };
  // Where labels are RUN:METHOD, what all runs' paths begin with is left out.
  const long = gallery.methods.filter((name) => name.includes("/"));
  let common = long.length ? long[0].slice(0, long[0].lastIndexOf("/") + 1) : "";
  while (!long.every((name) => name.startsWith(common))) common = common.slice(0, common.slice(0, -1).lastIndexOf("/") + 1);
  const brief = (name) => (name.startsWith(common) ? name.slice(common.length) : name);
  const image = () => byId.get(state.image);
  const ports = () => [...stage.querySelectorAll(".port")];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  // Two methods at most where one lies over the other; the picture may lack some of those chosen.
  const shown = () => state.methods.slice(0, ["slider", "difference"].includes(state.mode) ? 2 : MOST);

  // ---- the URL holds the state, so that a link shows the same spot ----
  const toHash = () => new URLSearchParams([
    ["image", state.image], ...state.methods.map((name) => ["method", name]), ["mode", state.mode],
    ["zoom", +state.zoom.toFixed(3)], ["at", `${Math.round(state.x)},${Math.round(state.y)}`],
    ["split", +state.split.toFixed(3)], ["gain", state.gain], ["sort", state.sort],
  ]).toString();
  let written = 0;
  const writeHash = () => { // browsers allow a hundred in ten seconds
    clearTimeout(written);
    written = setTimeout(() => history.replaceState(null, "", `#${toHash()}`), 200);
  };
  const readHash = () => {
    const found = new URLSearchParams(location.hash.slice(1));
    if (!byId.has(found.get("image"))) return false;
    const methods = found.getAll("method").filter((name) => gallery.methods.includes(name));
    const [x, y] = (found.get("at") || "").split(",").map(Number);
    const number = (name, low, high, otherwise) => {
      const value = parseFloat(found.get(name));
      return Number.isFinite(value) ? clamp(value, low, high) : otherwise;
    };
    Object.assign(state, {
      image: found.get("image"), methods: methods.length ? methods.slice(0, MOST) : state.methods,
      mode: found.get("mode") in MODES ? found.get("mode") : "side", zoom: number("zoom", 0, 32, 0),
      x: x || 0, y: y || 0, split: number("split", 0, 1, 0.5), gain: number("gain", 1, 32, 4),
      sort: found.get("sort") || "name",
    });
    return true;
  };

  // ---- thumbnails, sorted by name, by a score, or by the difference of a score between the first two methods ----
  const value = (each, sort) => {
    const [metric, first, second] = sort.split("|");
    const of = (method) => (each.scores[method] || {})[metric] ?? NaN;
    return second ? of(first) - of(second) : of(first);
  };
  const sortings = () => {
    const found = [["name", "name"]];
    const [first, second] = state.methods;
    for (const metric of gallery.metrics) {
      for (const method of state.methods) found.push([`${metric.name}|${method}`, `${metric.label} of ${brief(method)}`]);
      if (second) found.push([`${metric.name}|${second}|${first}`, `${metric.label}: ${brief(second)} − ${brief(first)}`]);
    }
    return found;
  };
  const text = (metric, number) =>
    Number.isFinite(number) ? number.toFixed(metric.digits) : "–";
  const drawThumbs = () => {
    const options = sortings();
    if (!options.some(([key]) => key === state.sort)) state.sort = "name";
    sort.replaceChildren(...options.map(([key, label]) => make("option", { value: key }, label)));
    sort.value = state.sort;
    const wanted = filter.value.toLowerCase();
    const found = gallery.images.filter((each) => each.id.toLowerCase().includes(wanted));
    if (state.sort !== "name") { // what has no score comes last
      const key = (each) => (Number.isFinite(value(each, state.sort)) ? value(each, state.sort) : Infinity);
      found.sort((a, b) => key(a) - key(b) || a.id.localeCompare(b.id));
    }
    const metric = gallery.metrics.find((each) => each.name === state.sort.split("|")[0]);
    thumbs.replaceChildren(...found.map((each) => make(
      "button", { type: "button", "aria-pressed": String(each.id === state.image), "data-id": each.id, title: each.id, onclick: () => choose(each.id) },
      make("img", { src: each.thumbnail, alt: "", loading: "lazy", width: 96, height: 72 }),
      make("span", {}, each.name), ...(metric ? [make("small", {}, text(metric, value(each, state.sort)))] : []),
    )));
    count.textContent = `${found.length} of ${gallery.images.length}`;
  };
  const markThumb = () => {
    for (const each of thumbs.children) each.setAttribute("aria-pressed", String(each.dataset.id === state.image));
    const chosen = thumbs.querySelector('[aria-pressed="true"]');
    // Not scrollIntoView: it would scroll the page too.
    if (chosen) thumbs.scrollLeft = chosen.offsetLeft - thumbs.offsetLeft - (thumbs.clientWidth - chosen.clientWidth) / 2;
  };

  // ---- the ports ----
  const picture = (method) => {
    const { files, width, height, id } = image();
    if (!files[method]) return make("div", { class: "none" }, "no image");
    return make("img", {
      src: files[method], alt: `${id} by ${method}`, draggable: "false",
      style: `width:${width}px;height:${height}px`,
    });
  };
  const caption = (method) => {
    const own = image().scores[method] || {};
    const rivals = shown().filter((name) => name !== gallery.reference && image().scores[name]);
    const lines = gallery.metrics.filter((metric) => Number.isFinite(own[metric.name])).map((metric) => {
      const values = rivals.map((name) => image().scores[name][metric.name]).filter(Number.isFinite);
      const best = (metric.lower ? Math.min : Math.max)(...values);
      const isBest = values.length > 1 && method !== gallery.reference && text(metric, own[metric.name]) === text(metric, best);
      const words = `${metric.label} ${metric.lower ? "↓" : "↑"} ${text(metric, own[metric.name])}`;
      return make(isBest ? "strong" : "span", isBest ? { title: "best of those shown" } : {}, words);
    });
    return make("figcaption", {}, make("b", {}, brief(method)), ...lines);
  };
  const drawStage = () => {
    const { width, height } = image();
    const names = shown();
    const port = (...children) => make("div", { class: "port", style: `aspect-ratio:${width}/${height}` }, ...children);
    const captions = () => make("div", { class: "captions" }, ...names.map(caption));
    stage.className = `stage ${state.mode}`;
    stage.style.setProperty("--columns", names.length === 4 ? 2 : Math.min(names.length, 3));
    if (state.mode === "side") {
      stage.replaceChildren(...names.map((name) => make("figure", {}, port(picture(name)), caption(name))));
    } else {
      const bar = make("div", { class: "bar", role: "separator", "aria-label": "edge between the two pictures" });
      stage.replaceChildren(port(...names.map(picture), ...(state.mode === "slider" ? [bar] : [])), captions());
    }
    place();
  };
  const fitted = (port) => {
    const factor = Math.min(port.clientWidth / image().width, port.clientHeight / image().height) * devicePixelRatio;
    return factor >= 1 ? Math.floor(factor) : factor;
  };
  const scale = (port) => (state.zoom || fitted(port)) / devicePixelRatio; // CSS pixels a pixel of the HR image
  // The pixel in the middle of a port: no port shows an empty margin where the picture is larger than it.
  const middle = (port, factor) => [[state.x, image().width, port.clientWidth], [state.y, image().height, port.clientHeight]].map(
    ([at, side, room]) => (state.zoom && side * factor > room ? clamp(at, room / factor / 2, side - room / factor / 2) : side / 2));
  const place = () => {
    const first = ports()[0];
    if (state.zoom && first) [state.x, state.y] = middle(first, scale(first));
    const exact = (value) => Math.round(value * devicePixelRatio) / devicePixelRatio;
    for (const port of ports()) {
      const factor = scale(port);
      const [x, y] = middle(port, factor);
      const left = exact(port.clientWidth / 2 - x * factor);
      const top = exact(port.clientHeight / 2 - y * factor);
      const pictures = [...port.querySelectorAll("img, .none")];
      pictures.forEach((each, index) => {
        each.style.transform = `translate(${left}px, ${top}px) scale(${factor})`;
        each.style.imageRendering = factor * devicePixelRatio >= 1 ? "pixelated" : "auto";
        const hidden = state.mode === "flicker" && index !== state.turn % pictures.length;
        each.style.visibility = hidden ? "hidden" : "visible";
        const edge = (state.split * port.clientWidth - left) / factor;
        each.style.clipPath = state.mode === "slider" && index ? `inset(0 0 0 ${Math.max(edge, 0)}px)` : "none";
      });
      port.style.filter = state.mode === "difference" ? `brightness(${state.gain})` : "none";
      const bar = port.querySelector(".bar");
      if (bar) bar.style.left = `${state.split * 100}%`;
    }
    if (state.mode === "flicker") {
      stage.querySelectorAll("figcaption").forEach((each, index, all) => each.classList.toggle("seen", index === state.turn % all.length));
    }
    const factor = first ? scale(first) * devicePixelRatio : 1;
    where.textContent = `${factor >= 1 ? +factor.toFixed(2) : `1/${+(1 / factor).toFixed(2)}`}×` +
      (state.zoom ? ` at (${Math.round(state.x)}, ${Math.round(state.y)})` : ", whole picture");
    writeHash();
  };

  // ---- actions ----
  const centre = () => { [state.x, state.y] = image().centre; };
  const choose = (id) => {
    state.image = id;
    centre();
    markThumb();
    drawStage();
  };
  const step = (by) => {
    const ids = [...thumbs.children].map((each) => each.dataset.id);
    if (ids.length) choose(ids[(ids.indexOf(state.image) + by + ids.length) % ids.length]);
  };
  const toggle = (method) => {
    const chosen = state.methods.includes(method);
    if (chosen && state.methods.length === 1) return;
    state.methods = chosen ? state.methods.filter((name) => name !== method) : [...state.methods, method].slice(-MOST);
    redraw();
  };
  const setMode = (mode) => {
    state.mode = mode;
    redraw();
  };
  // The pixel under the pointer stays where it is. `port` and `px`, `py`: inside which, at which CSS pixel.
  const zoomTo = (zoom, port = ports()[0], px = port.clientWidth / 2, py = port.clientHeight / 2) => {
    const before = scale(port);
    const [x, y] = middle(port, before);
    const [dx, dy] = [px - port.clientWidth / 2, py - port.clientHeight / 2];
    state.zoom = zoom;
    const after = zoom / devicePixelRatio;
    state.x = x + dx / before - dx / after;
    state.y = y + dy / before - dy / after;
    place();
  };
  const zoomBy = (direction, ...at) => {
    const port = at[0] || ports()[0];
    const now = scale(port) * devicePixelRatio;
    const next = direction > 0 ? ZOOMS.find((each) => each > now * 1.001) : [...ZOOMS].reverse().find((each) => each < now / 1.001);
    if (next && next <= fitted(port) && direction < 0) return whole();
    if (next) zoomTo(next, ...at);
  };
  const pan = (dx, dy) => { // CSS pixels
    if (!state.zoom) return;
    const factor = scale(ports()[0]);
    state.x -= dx / factor;
    state.y -= dy / factor;
    place();
  };
  const whole = () => {
    state.zoom = 0;
    place();
  };
  const turn = (by) => {
    state.turn = Math.max(state.turn + by, 0);
    place();
  };
  const adjust = (by) => {
    if (state.mode === "difference") state.gain = clamp(by > 0 ? state.gain * 2 : state.gain / 2, 1, 32);
    else state.split = clamp(state.split + by * 0.02, 0, 1);
    gain.value = Math.log2(state.gain);
    place();
  };
  const region = () => { // [y, x, height, width] of the HR image that the first port shows
    const port = ports()[0];
    const factor = scale(port);
    const [x, y] = middle(port, factor);
    const [width, height] = [Math.min(port.clientWidth / factor, image().width), Math.min(port.clientHeight / factor, image().height)];
    return [clamp(y - height / 2, 0, image().height - height), clamp(x - width / 2, 0, image().width - width), height, width].map(Math.round);
  };
  const quoted = (word) => (/^[\w./:@+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const command = () => {
    const [y, x, height, width] = region();
    const size = Math.max(4, Math.min(height, width));
    const { image: of, y: top, x: left } = image().of || { image: state.image, y: 0, x: 0 }; // a square of an image
    return `ranksr figure ${gallery.sources.map(quoted).join(" ")} --image ${quoted(of)} --crop ${y + top},${x + left},${size} ` +
      `--methods ${quoted(shown().join(","))} --out figure.png`;
  };
  const save = () => {
    const port = ports()[0];
    const shownPorts = ports();
    const [width, height, label] = [port.clientWidth * devicePixelRatio, port.clientHeight * devicePixelRatio, 40 * devicePixelRatio];
    const names = state.mode === "side" ? shown().map(brief) : [shown().map(brief).join(state.mode === "flicker" ? ", " : " | ")];
    const [y, x, high, wide] = region();
    const canvas = make("canvas");
    canvas.width = (shownPorts.length + 1) * width;
    canvas.height = height + label;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.font = `${14 * devicePixelRatio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    const write = (words, place) => {
      pen.fillStyle = "black";
      pen.fillText(words, (place + 0.5) * width, height + label * 0.6);
    };
    const first = port.querySelector("img");
    const small = Math.min(width / image().width, height / image().height);
    pen.drawImage(first, 0, 0, image().width * small, image().height * small);
    pen.strokeStyle = "red";
    pen.lineWidth = 2 * devicePixelRatio;
    pen.strokeRect(x * small, y * small, wide * small, high * small);
    write(image().id, 0);
    shownPorts.forEach((each, index) => {
      for (const img of each.querySelectorAll("img")) {
        if (img.style.visibility === "hidden") continue;
        const ratio = img.naturalWidth / image().width;
        const edge = state.mode === "slider" && img.style.clipPath !== "none" ? state.split : 0;
        pen.imageSmoothingEnabled = scale(each) * devicePixelRatio < 1;
        pen.globalCompositeOperation = state.mode === "difference" && img !== first ? "difference" : "source-over";
        pen.drawImage(
          img, (x + wide * edge) * ratio, y * ratio, wide * (1 - edge) * ratio, high * ratio,
          (index + 1 + edge) * width, 0, width * (1 - edge), height,
        );
      }
      pen.globalCompositeOperation = "source-over";
      write(names[index], index + 1);
    });
    try {
      canvas.toBlob((blob) => {
        const link = make("a", { href: URL.createObjectURL(blob), download: `${image().name}.png` });
        link.click();
        URL.revokeObjectURL(link.href);
      });
    } catch { // a page from file:// may not read its own pictures
      say("A page opened from a file may not save its pictures. The same figure by command:", command());
    }
  };
  const say = (words, code = "") => {
    message.replaceChildren(words, ...(code ? [make("code", {}, code)] : []));
    message.hidden = false;
  };

  // ---- controls ----
  const button = (label, title, onclick, attributes = {}) => make("button", { type: "button", title, onclick, ...attributes }, label);
  const sort = make("select", { "aria-label": "sort by", onchange: () => { state.sort = sort.value; drawThumbs(); markThumb(); writeHash(); } });
  const filter = make("input", { type: "search", placeholder: "name", "aria-label": "show only names with", oninput: () => { drawThumbs(); } });
  const count = make("span", { class: "quiet" });
  const thumbs = make("div", { class: "thumbs", role: "group", "aria-label": "test images" });
  const chips = make("div", { class: "chips", role: "group", "aria-label": "methods shown, six at most" });
  const modes = make("div", { class: "chips", role: "group", "aria-label": "how they are shown" });
  const gain = make("input", { type: "range", min: 0, max: 5, step: 1, "aria-label": "gain of the difference", oninput: () => { state.gain = 2 ** gain.value; place(); } });
  const gainLabel = make("label", {}, "gain ", gain);
  const where = make("output", { class: "quiet" });
  const stage = make("div", { class: "stage", tabindex: "0", role: "group", "aria-label": "pictures; press ? for the keys" });
  const message = make("p", { class: "message", role: "status", hidden: true });
  const KEYS = "Keys: arrows move (Shift: faster), + and − zoom, 0 whole picture, 1 one to one, n and p next and previous image, " +
    "s side by side, l slider, f flicker, d difference, Space (held) the next method in flicker, [ and ] slider or gain, " +
    "w save as PNG, c the command for this figure.";
  // One training at several steps, NAME@STEP, has a row of its own.
  const training = (name) => (name.includes("@") ? name.slice(0, name.lastIndexOf("@")) : "");
  const drawControls = () => {
    const chip = (name, label = brief(name)) => button(label, `show or hide ${name}`, () => toggle(name), {
      "aria-pressed": String(state.methods.includes(name)), "aria-label": brief(name),
      disabled: !Object.hasOwn(image().files, name) && !state.methods.includes(name),
    });
    const stepsOf = (of) => gallery.methods.filter((name) => training(name) === of);
    const several = [...new Set(gallery.methods.map(training))].filter((of) => of && stepsOf(of).length > 1);
    const alone = gallery.methods.filter((name) => !several.includes(training(name)));
    chips.replaceChildren(...alone.map((name) => chip(name)), ...several.map((of) => make(
      "div", { class: "chips steps", role: "group", "aria-label": `${brief(of)} at its steps` },
      make("b", {}, brief(of)), ...stepsOf(of).map((name) => chip(name, name.slice(of.length + 1))),
    )));
    modes.replaceChildren(...Object.entries(MODES).map(([mode, label]) => button(label, "", () => setMode(mode), { "aria-pressed": String(state.mode === mode) })));
    gainLabel.hidden = state.mode !== "difference";
    gain.value = Math.log2(state.gain);
  };
  const redraw = () => {
    drawControls();
    drawThumbs();
    markThumb();
    drawStage();
  };
  root.replaceChildren(
    make("div", { class: "row" }, make("label", {}, "sort by ", sort), filter, count), thumbs,
    make("div", { class: "row" }, chips), make("div", { class: "row" }, modes, gainLabel,
      make("div", { class: "chips" }, button("−", "zoom out (−)", () => zoomBy(-1)), button("+", "zoom in (+)", () => zoomBy(1)),
        button("whole", "whole picture (0)", whole), button("1:1", "one to one (1)", () => zoomTo(1)),
        button("save PNG", "save the view (w)", save), button("?", "keys", () => say(KEYS))), where),
    message, stage,
  );

  // ---- pointer, wheel, keys ----
  const pointers = new Map();
  let pinch = 0;
  let sliding = false;
  const distance = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  stage.addEventListener("pointerdown", (event) => {
    const port = event.target.closest(".port");
    if (!port || event.button) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, port });
    sliding = event.target.classList.contains("bar");
    if (pointers.size === 2) pinch = distance() / scale(port);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const box = before.port.getBoundingClientRect();
    pointers.set(event.pointerId, { ...before, x: event.clientX, y: event.clientY });
    if (sliding) {
      state.split = clamp((event.clientX - box.left) / box.width, 0, 1);
      place();
    } else if (pointers.size === 2) {
      const wanted = (distance() / pinch) * devicePixelRatio;
      const nearest = ZOOMS.reduce((best, each) => (Math.abs(Math.log(each / wanted)) < Math.abs(Math.log(best / wanted)) ? each : best));
      zoomTo(nearest, before.port, event.clientX - box.left, event.clientY - box.top);
    } else {
      pan(event.clientX - before.x, event.clientY - before.y);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      sliding = false;
    });
  }
  let turned = 0;
  stage.addEventListener("wheel", (event) => {
    const port = event.target.closest(".port");
    if (!port) return;
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 40 : event.deltaY; // lines or pixels
    if (Math.abs(turned) < 40) return; // a touchpad sends many small ones
    const box = port.getBoundingClientRect();
    zoomBy(-turned, port, event.clientX - box.left, event.clientY - box.top);
    turned = 0;
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    const port = event.target.closest(".port");
    if (!port) return;
    const box = port.getBoundingClientRect();
    zoomBy(1, port, event.clientX - box.left, event.clientY - box.top);
  });
  const ACTIONS = {
    "+": () => zoomBy(1), "=": () => zoomBy(1), "-": () => zoomBy(-1), 0: whole, 1: () => zoomTo(1), n: () => step(1), p: () => step(-1),
    s: () => setMode("side"), l: () => setMode("slider"), f: () => setMode("flicker"), d: () => setMode("difference"),
    "[": () => adjust(-1), "]": () => adjust(1), w: save, c: () => say("", command()), "?": () => say(KEYS), Escape: () => { message.hidden = true; },
    ArrowLeft: (far) => pan(far, 0), ArrowRight: (far) => pan(-far, 0), ArrowUp: (far) => pan(0, far), ArrowDown: (far) => pan(0, -far),
  };
  let held = false;
  const keysReach = (event) => !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, select, textarea") &&
    (root.hasAttribute("data-alone") || root.contains(event.target));
  document.addEventListener("keydown", (event) => {
    if (!keysReach(event)) return;
    if (event.key === " " && state.mode === "flicker" && !event.target.closest("button")) {
      event.preventDefault();
      if (!held) turn(1);
      held = true;
    } else if (ACTIONS[event.key]) {
      event.preventDefault();
      ACTIONS[event.key](event.shiftKey ? 200 : 40);
    }
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && held) {
      held = false;
      turn(-1);
    }
  });
  addEventListener("hashchange", () => { if (readHash()) redraw(); });
  new ResizeObserver(place).observe(stage);
  const linked = readHash();
  if (!linked) centre();
  redraw();
  if (!linked && fitted(ports()[0]) > state.zoom) whole(); // a small picture fills its port
})();
