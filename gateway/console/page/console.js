// SPDX-License-Identifier: Apache-2.0
// Replaces the live part of a page whenever the gateway says that something changed. Without this script the page still works: it
// shows what was true when it was loaded.
const rows = document.getElementById("rows");
const live = document.getElementById("live");
if (rows && live) {
  const feed = new EventSource(live.dataset.feed);
  feed.addEventListener("open", () => say("live"));
  feed.addEventListener("error", () => say("lost"));
  feed.addEventListener("over", () => {
    feed.close();
    say("over");
  });
  feed.addEventListener("rows", (event) => {
    const focused = rows.contains(document.activeElement) ? document.activeElement.id : "";
    rows.innerHTML = JSON.parse(event.data);
    if (focused) {
      document.getElementById(focused)?.focus();
    }
    local();
  });
}

function say(state) {
  live.dataset.state = state;
  live.textContent = live.dataset[state];
}

// Times are written in UTC by the gateway; the operator's own time stands below. The content policy allows no style in the
// page itself, so a bubble's colour is set here.
function local() {
  for (const swatch of document.querySelectorAll("[data-colour]")) {
    swatch.style.backgroundColor = swatch.dataset.colour;
  }
  for (const time of document.querySelectorAll("time[data-local]")) {
    const at = new Date(time.dateTime);
    const today = at.toDateString() === new Date().toDateString();
    const parts = { timeStyle: "medium", hourCycle: "h23", ...(today ? {} : { dateStyle: "medium" }) };
    time.nextElementSibling.textContent = at.toLocaleString(document.documentElement.lang, parts) + " " + time.dataset.local;
  }
}
local();
