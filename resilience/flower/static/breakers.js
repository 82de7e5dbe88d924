// Keeps the page Breakers fresh: fetches its live part, and never touches a form that somebody has opened.
"use strict";
(() => {
  const live = document.getElementById("breakers-live");
  const trouble = document.getElementById("breakers-trouble");
  const dot = document.getElementById("breakers-dot");
  const freshness = document.getElementById("breakers-freshness");
  const refreshMs = Number(live.dataset.refreshS) * 1000;
  const ANSWER_WITHIN_MS = 8000;
  // Not relative to the address: that may hold a user and password, which fetch refuses.
  const url = new URL(live.dataset.url, location.origin);
  let asOf = live.querySelector("[data-now]")?.dataset.now;

  // The page was the answer to a posted order: a reload must show the page, not post again.
  history.replaceState(null, "");

  function words(seconds) {
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
    return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  }

  function tick() {
    for (const cell of live.querySelectorAll("[data-seconds]")) {
      cell.endsAt ??= performance.now() + Number(cell.dataset.seconds) * 1000;
      const seconds = Math.ceil((cell.endsAt - performance.now()) / 1000);
      const text = seconds > 0 ? cell.dataset.before + words(seconds) : cell.dataset.then;
      if (cell.textContent !== text) cell.textContent = text;
    }
  }

  function inTitle() {
    const counts = live.querySelector("[data-open]")?.dataset || {};
    const said = [[counts.open, "open"], [counts.forced, "forced"]].filter(([count]) => Number(count)).map((pair) => pair.join(" "));
    document.title = (said.length ? `(${said.join(", ")}) ` : "") + "Breakers · Flower";
  }

  // What is done at once takes no time: a field that is switched off is not sent.
  function fitForm(form) {
    const ttl = form.elements.ttl;
    ttl.disabled = ttl.hidden = ["", "reset", "auto"].includes(form.elements.action.value);
  }

  // An opened form keeps the epoch that the operator saw, until the operator says that the new one was seen too.
  function warn(cell, changed) {
    cell.querySelector(".breakers-changed").hidden = !changed;
    cell.querySelector("button[type=submit]").disabled = changed;
  }

  function mergeRow(old, fresh) {
    const changed = old.dataset.epoch !== fresh.dataset.epoch;
    [...fresh.cells].forEach((cell, i) => {
      const mine = old.cells[i];
      if (!cell.classList.contains("breakers-act")) {
        if (mine.innerHTML !== cell.innerHTML) mine.replaceChildren(...cell.childNodes);
      } else if (changed && mine.querySelector("details[open]")) {
        warn(mine, true);
      } else if (changed || (mine.querySelector(".breakers-changed:not([hidden])") && !mine.querySelector("details[open]"))) {
        mine.replaceChildren(...cell.childNodes);
      }
    });
    old.dataset.epoch = fresh.dataset.epoch;
  }

  function mergeTable(old, fresh) {
    const mine = new Map([...old.rows].map((row) => [row.dataset.circuit, row]));
    const rows = [...fresh.rows].map((row) => {
      const known = mine.get(row.dataset.circuit);
      if (!known) return row;
      mergeRow(known, row);
      return known;
    });
    const inHand = old.querySelector("details[open]") || old.contains(document.activeElement);
    if (inHand) {
      // A row that moves under the hand is a wrong click: keep the order until the form is closed.
      for (const [name, row] of mine) if (!rows.some((kept) => kept.dataset.circuit === name)) row.remove();
      for (const row of rows) if (!row.isConnected || row.parentNode !== old) old.append(row);
    } else if (rows.length !== old.rows.length || rows.some((row, i) => row !== old.rows[i])) {
      old.replaceChildren(...rows);
    }
  }

  function merge(html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const parts = [...fresh.content.querySelectorAll("[data-part]")];
    if (!live.querySelector("[data-part]")) live.replaceChildren(...parts);
    for (const part of parts) {
      const old = live.querySelector(`[data-part="${part.dataset.part}"]`);
      if (old === part) continue;
      const [body, freshBody] = [old.querySelector("tbody"), part.querySelector("tbody")];
      if (body && freshBody && old.querySelectorAll("th").length === part.querySelectorAll("th").length) mergeTable(body, freshBody);
      else if (old.outerHTML !== part.outerHTML) old.replaceWith(part);
    }
  }

  function show(problem) {
    live.classList.toggle("breakers-stale", Boolean(problem));
    dot.className = "status-dot " + (problem ? "status-dot-error" : "status-dot-live");
    if (trouble.textContent !== problem) trouble.textContent = problem;
    trouble.hidden = !problem;
    freshness.textContent = !problem ? `As of ${asOf}` : asOf ? `Not answered since ${asOf}` : "No answer";
  }

  async function refresh() {
    let answer, text;
    try {
      answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
      text = await answer.text();
    } catch {
      return show("Flower does not answer. What you see is what was true when it last did.");
    }
    if (answer.redirected || answer.status === 401 || answer.status === 403) return show("Your login has ended: load this page again.");
    if (!answer.ok) return show(answer.status === 503 ? text : `Flower answered with ${answer.status}: see its log.`);
    merge(text);
    asOf = live.querySelector("[data-now]").dataset.now;
    show("");
    tick();
    inTitle();
  }

  async function keepFresh() {
    if (!document.hidden) await refresh();
    setTimeout(keepFresh, refreshMs);
  }

  live.addEventListener("click", (event) => {
    if (!event.target.matches(".breakers-changed button")) return;
    const row = event.target.closest("tr");
    row.querySelector("input[name=epoch]").value = row.dataset.epoch;
    warn(row, false);
    row.querySelector("input[name=reason]").focus();
  });
  live.addEventListener("toggle", (event) => {
    if (!event.target.open) return;
    fitForm(event.target.querySelector("form"));
    event.target.querySelector("select[name=action]").focus();
  }, true);
  live.addEventListener("change", (event) => {
    if (event.target.name === "action") fitForm(event.target.form);
  });
  for (const form of live.querySelectorAll("details[open] form")) fitForm(form);
  tick();
  inTitle();
  setInterval(tick, 250);
  if (refreshMs > 0) setTimeout(keepFresh, refreshMs);
})();
