// SPDX-License-Identifier: Apache-2.0
// The lab page: one box's screen on a canvas, its keyboard and mouse, cards, fingers and the link.

const $ = (selector) => document.querySelector(selector);
const canvas = $("#screen");
const context = canvas.getContext("2d", { alpha: false });
let box = $("[role=tab]").dataset.box;
let boxes = new Map();

// Linux key codes by KeyboardEvent.code, the place of the key whatever its legend (linux/input-event-codes.h).
const codes = {
  Escape: 1, Minus: 12, Equal: 13, Backspace: 14, Tab: 15, BracketLeft: 26, BracketRight: 27, Enter: 28, ControlLeft: 29,
  Semicolon: 39, Quote: 40, Backquote: 41, ShiftLeft: 42, Backslash: 43, Comma: 51, Period: 52, Slash: 53, ShiftRight: 54,
  NumpadMultiply: 55, AltLeft: 56, Space: 57, CapsLock: 58, NumLock: 69, ScrollLock: 70, NumpadSubtract: 74, NumpadAdd: 78,
  NumpadDecimal: 83, IntlBackslash: 86, F11: 87, F12: 88, NumpadEnter: 96, ControlRight: 97, NumpadDivide: 98, PrintScreen: 99,
  AltRight: 100, Home: 102, ArrowUp: 103, PageUp: 104, ArrowLeft: 105, ArrowRight: 106, End: 107, ArrowDown: 108, PageDown: 109,
  Insert: 110, Delete: 111, Pause: 119, MetaLeft: 125, MetaRight: 126, ContextMenu: 127,
};
"1234567890".split("").forEach((c, i) => { codes["Digit" + c] = 2 + i; });
"QWERTYUIOP".split("").forEach((c, i) => { codes["Key" + c] = 16 + i; });
"ASDFGHJKL".split("").forEach((c, i) => { codes["Key" + c] = 30 + i; });
"ZXCVBNM".split("").forEach((c, i) => { codes["Key" + c] = 44 + i; });
[82, 79, 80, 81, 75, 76, 77, 71, 72, 73].forEach((code, i) => { codes["Numpad" + i] = code; });
for (let i = 1; i <= 10; i++) codes["F" + i] = 58 + i;

function say(text) { $("#said").textContent = text; }

async function post(path, body) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    say(answer.ok ? "" : await answer.text());
    return answer.ok;
  } catch {
    say("The lab does not answer. Has it been stopped?");
    return false;
  }
}

// --- screen ------------------------------------------------------------------------------------------------------------------

let streaming = null;

async function watch(serial) {
  streaming?.abort();
  const abort = streaming = new AbortController();
  while (!abort.signal.aborted) {
    try {
      const answer = await fetch(`/boxes/${serial}/screen`, { signal: abort.signal });
      await paint(answer.body.getReader(), abort.signal);
    } catch { /* the lab or the box went away: look again */ }
    if (!abort.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function paint(reader, signal) {
  let have = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) return;
    const joined = new Uint8Array(have.length + value.length);
    joined.set(have); joined.set(value, have.length);
    have = joined;
    for (;;) {
      if (have.length < 12) break;
      const view = new DataView(have.buffer, have.byteOffset, have.length);
      const end = 4 + view.getUint32(0, true);
      if (have.length < end) break;
      const [width, height, x, y] = [4, 6, 8, 10].map((at) => view.getUint16(at, true));
      const picture = await createImageBitmap(new Blob([have.subarray(12, end)], { type: "image/png" }));
      if (signal.aborted) return;
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      context.drawImage(picture, x, y);
      picture.close();
      have = have.subarray(end);
    }
  }
}

// --- keyboard and mouse: events leave in order, one request at a time, all that came meanwhile together -------------------------

let waiting = [];
let sending = false;

async function send(event) {
  const last = waiting[waiting.length - 1];
  if (event.kind === "move" && last?.kind === "move") waiting[waiting.length - 1] = event;
  else waiting.push(event);
  if (sending) return;
  sending = true;
  while (waiting.length > 0) {
    const events = waiting.splice(0, 400);
    await post(`/boxes/${box}/input`, events);
  }
  sending = false;
}

const held = new Set();
let escapes = 0;

function key(event, down) {
  const code = codes[event.code];
  if (code === undefined) return;
  event.preventDefault();
  if (down && !event.repeat) escapes = code === 1 ? escapes + 1 : 0;
  if (down) held.add(code); else held.delete(code);
  send({ kind: "key", code, down: down ? (event.repeat ? 2 : 1) : 0 });
  if (escapes >= 3 && !document.fullscreenElement) { escapes = 0; canvas.blur(); $("#full").focus(); }
}

function release() {
  for (const code of held) send({ kind: "key", code, down: 0 });
  held.clear();
}

function point(event) {
  const area = canvas.getBoundingClientRect();
  const scale = Math.min(area.width / canvas.width, area.height / canvas.height);
  const left = area.left + (area.width - canvas.width * scale) / 2, top = area.top + (area.height - canvas.height * scale) / 2;
  const place = (value, size) => Math.max(0, Math.min(32767, Math.round((value / (size * scale)) * 32767)));
  return { kind: "move", x: place(event.clientX - left, canvas.width), y: place(event.clientY - top, canvas.height) };
}

canvas.addEventListener("keydown", (event) => key(event, true));
canvas.addEventListener("keyup", (event) => key(event, false));
canvas.addEventListener("blur", () => { release(); $("#focus").textContent = "Click the screen to type and point in it."; });
canvas.addEventListener("focus", () => { $("#focus").textContent = "Keys and mouse go to the box. Esc three times gives them back."; });
canvas.addEventListener("pointermove", (event) => { if (document.activeElement === canvas) send(point(event)); });
for (const [name, down] of [["pointerdown", 1], ["pointerup", 0]]) {
  canvas.addEventListener(name, (event) => {
    canvas.focus();
    if (down) canvas.setPointerCapture(event.pointerId);
    send(point(event));
    send({ kind: "button", button: ["left", "middle", "right"][event.button] ?? "left", down });
    event.preventDefault();
  });
}
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => { event.preventDefault(); send({ kind: "wheel", steps: event.deltaY > 0 ? -1 : 1 }); }, { passive: false });

for (const button of document.querySelectorAll("[data-chord]")) {
  button.addEventListener("click", () => {
    const chord = button.dataset.chord.split(" ").map(Number);
    for (const code of chord) send({ kind: "key", code, down: 1 });
    for (const code of chord.toReversed()) send({ kind: "key", code, down: 0 });
    canvas.focus();
  });
}
$("#full").addEventListener("click", async () => {
  await canvas.requestFullscreen();
  await navigator.keyboard?.lock?.(["ArrowLeft", "ArrowRight", "ArrowUp", "AltLeft", "ControlLeft"]);
  canvas.focus();
});

// --- boxes, cards, fingers, link ------------------------------------------------------------------------------------------------

function select(serial) {
  release();
  box = serial;
  for (const tab of document.querySelectorAll("[role=tab]")) tab.setAttribute("aria-selected", String(tab.dataset.box === serial));
  for (const place of document.querySelectorAll(".which")) place.textContent = serial;
  context.fillRect(0, 0, canvas.width, canvas.height);
  show();
  watch(serial);
}

function show() {
  const state = boxes.get(box);
  if (!state) return;
  $("#dark").hidden = state.running;
  for (const [id, value, unit] of [["delay", state.delay, "ms"], ["loss", state.loss, "%"]]) {
    if (document.activeElement !== $("#" + id)) $("#" + id).value = value;
    $(`#${id}-out`).textContent = `${$("#" + id).value} ${unit}`;
  }
  for (const id of ["no_udp", "unplugged"]) $("#" + id).checked = state[id];
  for (const [serial, one] of boxes) $(`[data-holds="${serial}"]`).textContent = one.card || "no card";
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showCards(cards) {
  const list = $("#cards");
  const wanted = JSON.stringify([cards, [...boxes.keys()]]);
  if (list.dataset.shown === wanted) return;
  list.dataset.shown = wanted;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.place : "";
  list.replaceChildren(...cards.map((card) => {
    const item = element("li", "");
    const words = element("div", "", { class: "name" });
    words.append(element("b", card.name), element("small", card.box ? `in ${card.box}` : "in the tray"));
    const places = element("div", "", { class: "places", role: "group", "aria-label": `Card of ${card.name}` });
    for (const place of ["", ...boxes.keys()]) {
      const here = place === card.box;
      const label = here ? `The card of ${card.name} is in ${place || "the tray"}` : place ? `Insert the card of ${card.name} into ${place}` : `Pull out the card of ${card.name}`;
      const button = element("button", place || (here ? "Tray" : "Pull out"), { "aria-label": label, "aria-pressed": String(here), "data-place": `${card.guid} ${place}` });
      if (!here) button.addEventListener("click", () => move(card, place));
      places.append(button);
    }
    item.append(element("span", "", { class: "chip", "aria-hidden": "true" }), words, places);
    return item;
  }));
  if (focused) list.querySelector(`[data-place="${focused}"]`)?.focus();
}

async function move(card, into) {
  if (await post(`/cards/${card.guid}`, { box: into }) && into) {
    for (const hand of $("#person").options) if (hand.text === card.name) hand.selected = true;
    if (into !== box) select(into);
  }
  await refresh();
}

async function refresh() {
  try {
    const state = await (await fetch("/state")).json();
    boxes = new Map(state.boxes.map((one) => [one.serial, one]));
    show();
    showCards(state.cards ?? []);
  } catch {
    say("The lab does not answer. Has it been stopped?");
  }
}

for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => select(tab.dataset.box));
for (const button of document.querySelectorAll("[data-finger]")) {
  button.addEventListener("click", () => post(`/boxes/${box}/finger`, { person: $("#person").value, finger: button.dataset.finger }));
}
for (const id of ["delay", "loss", "no_udp", "unplugged"]) {
  $("#" + id).addEventListener("change", async () => {
    await post(`/boxes/${box}/link`, {
      delay: Number($("#delay").value), loss: Number($("#loss").value), no_udp: $("#no_udp").checked, unplugged: $("#unplugged").checked,
    });
    await refresh();
  });
  $("#" + id).addEventListener("input", () => { if (id === "delay" || id === "loss") $(`#${id}-out`).textContent = `${$("#" + id).value} ${id === "delay" ? "ms" : "%"}`; });
}

await refresh();
select(box);
setInterval(refresh, 1000);
