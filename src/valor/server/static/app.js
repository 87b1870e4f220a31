// The search page: query, balance, results. `player.js` shows a moment, `library.js` indexes.

import { $, clock, count, h, icon, wordOf } from "./dom.js";
import * as api from "./api.js";
import { openPlayer } from "./player.js";
import { setUpLibrary } from "./library.js";

const EXAMPLES = ["a dog barks", "people applaud", "a bell rings", "rain on a roof", "someone laughs"];

const state = {
  library: null,
  hits: [],
  auto: true,
  /** What to search by beside words: {upload, kind, name} or {segment, by, name}. */
  by: null,
  running: null,
};

// ---- results -------------------------------------------------------------------------------

function card(hit, index) {
  const isSeen = "vision" in hit.by_modality;
  const source = isSeen
    ? api.address.poster(hit.media, hit.moment_s)
    : api.address.sound(hit.media, hit.start_s, Math.max(hit.end_s, hit.start_s + 0.5), 480, 270);
  const picture = h("img", { src: source, alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("load", () => picture.classList.add("ready"));
  picture.addEventListener("error", () => picture.replaceWith(h("span.blank", {}, icon(hit.matched))));
  const time = hit.end_s > hit.start_s ? `${clock(hit.start_s)}–${clock(hit.end_s)}` : "picture";
  return h(
    "button.card",
    {
      type: "button",
      "aria-label": `${hit.name} at ${clock(hit.start_s)}, ${wordOf(hit.matched)}`,
      onclick: () => openPlayer(hit, state.hits, context()),
      "data-index": String(index),
    },
    h("span.frame", { class: "frame" }, picture, h("span.time", { text: time })),
    h("span.about", {},
      h("span.line", {}, matchBadge(hit), h("span.name", { text: hit.name, title: hit.path })),
      h("span.caption", { text: hit.caption ?? hit.speech ?? hit.screen ?? "" })),
  );
}

function matchBadge(hit) {
  const scores = Object.entries(hit.by_modality)
    .map(([name, score]) => `${wordOf(name)} ${score.toFixed(2)}`)
    .join(", ");
  return h(`span.match.${hit.matched || "text"}`, { title: `Match: ${scores}` },
    icon(hit.matched), wordOf(hit.matched));
}

function skeletons() {
  return Array.from({ length: 8 }, () =>
    h("span.card.skeleton", { "aria-hidden": "true" }, h("span.frame"), h("span.about", {},
      h("span.bone"), h("span.bone.short"))));
}

function message(title, text, ...actions) {
  return h("div.notice", {}, h("h2", { text: title }), h("p", { text }), h("div.actions", {}, ...actions));
}

function showStart() {
  document.body.classList.remove("searched");
  $("status").textContent = "";
  const library = state.library;
  if (library && library.num_segments === 0) {
    $("results").replaceChildren(message(
      "The library is empty",
      "Index a folder of recordings once, then search it by what is seen and heard.",
      h("button.primary", { type: "button", text: "Index a folder", onclick: () => $("open-library").click() })));
  } else {
    $("results").replaceChildren();
  }
}

function showError(error) {
  $("status").textContent = "";
  const busy = error.status === 429;
  $("results").replaceChildren(message(
    busy ? "The server is busy" : "That did not work",
    busy ? `Many are searching right now. Try again in ${error.retryAfter || 1} s.` : error.message,
    h("button.primary", { type: "button", text: "Try again", onclick: () => runSearch() })));
  $("results").firstChild.classList.add("error");
}

function showHits({ hits, took_ms: took }) {
  state.hits = hits;
  const files = new Set(hits.map((hit) => hit.media)).size;
  $("status").textContent = hits.length
    ? `${count(hits.length, "moment")} in ${count(files, "recording")} · ${Math.round(took)} ms` : "";
  $("results").replaceChildren(...(hits.length ? hits.map(card) : [message(
    "Nothing found",
    "Nothing in the library has what this search compares. Try other words, or another balance.")]));
}

// ---- searching -----------------------------------------------------------------------------

function context() {
  return { describes: state.library?.describes ?? false, searchLike };
}

async function runSearch() {
  const text = $("query").value.trim();
  if (!text && !state.by) return;
  state.running?.abort();
  const running = (state.running = new AbortController());
  document.body.classList.add("searched");
  $("status").textContent = "Searching…";
  $("results").replaceChildren(...skeletons());
  $("results").setAttribute("aria-busy", "true");
  history.replaceState(null, "", text && !state.by ? `#q=${encodeURIComponent(text)}` : "#");
  const body = { limit: 48 };
  if (text) body.text = text;
  if (state.by?.upload) body.upload = state.by.upload;
  if (state.by?.segment) body.segment = state.by.segment;
  if (state.by?.by) body.by = state.by.by;
  if (!state.auto) body.balance = Number($("balance").value) / 100;
  try {
    showHits(await api.search(body, running.signal));
  } catch (error) {
    if (error.name === "AbortError") return;
    showError(error);
  }
  if (state.running === running) $("results").removeAttribute("aria-busy");
}

function searchLike(hit, by) {
  const kinds = { audio: "sounds like", image: "looks like", video: "like" };
  const segment = { media: hit.media, start_s: hit.start_s, end_s: hit.end_s };
  $("query").value = "";
  setBy({ segment, by, kind: by, name: `${kinds[by]} ${hit.name} ${clock(hit.start_s)}` });
  runSearch();
}

function setBy(by) {
  state.by = by;
  const token = $("token");
  token.hidden = !by;
  if (!by) return;
  token.replaceChildren(
    icon({ audio: "audio", image: "vision", video: "play" }[by.kind]),
    h("span", { text: by.name, title: by.name }),
    h("button", { type: "button", "aria-label": "Remove", onclick: () => { setBy(null); $("query").focus(); } },
      icon("close")));
}

async function takeFile(file) {
  if (!file) return;
  const limit = state.library?.max_upload_bytes ?? Infinity;
  document.body.classList.add("searched");
  if (file.size > limit) {
    const large = `${file.name} is larger than ${Math.round(limit / 2 ** 20)} MB. Cut out what you look for.`;
    showError(new api.ApiError(413, large));
    return;
  }
  $("status").textContent = `Sending ${file.name}…`;
  $("results").replaceChildren(...skeletons());
  try {
    const sent = await api.upload(file);
    setBy({ upload: sent.upload, kind: sent.kind, name: file.name });
    await runSearch();
  } catch (error) {
    showError(error);
  }
}

// ---- wiring --------------------------------------------------------------------------------

function setUpForm() {
  if (matchMedia("(max-width: 640px)").matches) $("query").placeholder = "Describe a moment";
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    runSearch();
  });
  $("query").addEventListener("input", () => {
    if (!$("query").value && !state.by) showStart();
  });
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !$("query").value) setBy(null);
    if (event.key === "ArrowDown") document.querySelector("button.card")?.focus();
  });
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    takeFile($("file").files[0]);
    $("file").value = "";
  });
  setUpBalance();
  setUpDrop();
}

function setUpBalance() {
  const setAuto = (auto) => {
    state.auto = auto;
    $("auto").setAttribute("aria-pressed", String(auto));
    $("balance").classList.toggle("idle", auto);
  };
  setAuto(true);
  $("auto").addEventListener("click", () => {
    setAuto(!state.auto);
    runSearch();
  });
  $("balance").addEventListener("input", () => setAuto(false));
  $("balance").addEventListener("change", () => runSearch());
}

function setUpDrop() {
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => holdsFile(event) && show(1));
  addEventListener("dragleave", (event) => holdsFile(event) && show(-1));
  addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    show(-depth);
    takeFile(event.dataTransfer.files[0]);
  });
}

function setUpKeys() {
  addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input, textarea, select");
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "/" && !typing) {
      event.preventDefault();
      $("query").select();
    }
    const focused = document.activeElement?.closest?.("button.card");
    if (focused) moveInGrid(event, focused);
  });
}

function moveInGrid(event, focused) {
  const cards = [...document.querySelectorAll("button.card")];
  const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const target = cards[cards.indexOf(focused) + step];
  if (target) target.focus();
  else if (step < 0) $("query").focus();
}

function setUpTheme() {
  const themes = ["auto", "light", "dark"];
  const icons = { auto: "half", light: "sun", dark: "moon" };
  let theme = localStorage.getItem("valor-theme") ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = theme;
    $("theme").replaceChildren(icon(icons[theme]));
    $("theme").setAttribute("aria-label", `Theme: ${theme}`);
    $("theme").title = `Theme: ${theme}`;
  };
  $("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    localStorage.setItem("valor-theme", theme);
    apply();
  });
  apply();
}

async function loadLibrary() {
  const library = (state.library = await api.library());
  document.title = `${library.name} · valor`;
  $("facts").replaceChildren(count(library.num_files, "recording"),
    h("span", { text: ` · ${count(library.num_segments, "moment")}` }));
  const examples = library.examples.length ? library.examples : EXAMPLES;
  $("chips").replaceChildren(...(library.num_segments ? examples : []).map((text) =>
    h("button.chip", { type: "button", text, onclick: () => { $("query").value = text; setBy(null); runSearch(); } })));
  return library;
}

async function main() {
  setUpTheme();
  setUpForm();
  setUpKeys();
  setUpLibrary(() => state.library, async () => {
    await loadLibrary();
    if (!document.body.classList.contains("searched")) showStart();
  });
  try {
    await loadLibrary();
  } catch (error) {
    const status = error.status === 401
      ? "This server needs its token: open the address that it printed when it started." : error.message;
    showError(new api.ApiError(error.status, status));
    return;
  }
  const words = new URLSearchParams(location.hash.slice(1)).get("q");
  if (words) {
    $("query").value = words;
    runSearch();
  } else {
    showStart();
    if (matchMedia("(hover: hover)").matches) $("query").focus();
  }
}

main();
