// The page on which people write captions and check those of others. No build step, no library.

const $ = (id) => document.getElementById(id);
const NAME = "valor-annotate-name";
const POLL_MS = 15000;

let task = null; // what is on the desk
let busy = false;
let renewal = 0;
let poll = 0;
let turn = 0; // counts what was opened; an answer that comes after the next opening is dropped

// --- talking to the server -----------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ annotator: name(), ...body }),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refusal(0, "The server does not answer. What you typed is kept.");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  if (answer.status === 401) $("token-dialog").showModal();
  throw new Refusal(answer.status, content.detail || `The server said ${answer.status}.`);
}

// --- who, and which view -------------------------------------------------------------------------

const name = () => localStorage.getItem(NAME) || "";
const view = () => (["check", "progress"].includes(location.hash.slice(1)) ? location.hash.slice(1) : "write");

function askName() {
  $("name").value = name();
  $("name-dialog").showModal();
  $("name").select();
}

$("name-dialog").addEventListener("submit", () => {
  localStorage.setItem(NAME, $("name").value.trim());
  open();
});
$("name-dialog").addEventListener("close", () => name() || askName());
$("who").addEventListener("click", askName);

// --- which part of the page is seen --------------------------------------------------------------

function show(part) {
  for (const id of ["loading", "failure", "empty", "desk", "progress"]) $(id).hidden = id !== part;
}

function fail(error, retry) {
  show("failure");
  $("failure-text").textContent = error.message;
  $("again").onclick = retry;
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

async function open(message = "") {
  for (const link of document.querySelectorAll(".tabs a")) {
    link.toggleAttribute("aria-current", false);
    if (link.hash.slice(1) === view()) link.setAttribute("aria-current", "page");
  }
  $("who").textContent = name();
  if (!name()) return askName();
  if (task?.role !== view()) show(""); // what is seen always belongs to the view that is marked
  clear();
  const mine = ++turn;
  const slow = setTimeout(() => mine === turn && show("loading"), 200);
  try {
    const fill = await (view() === "progress" ? openProgress() : openTask(view(), message));
    if (mine === turn) fill();
  } catch (error) {
    if (mine === turn) fail(error, () => open());
  } finally {
    clearTimeout(slow);
  }
}

function clear() {
  clearInterval(renewal);
  clearTimeout(poll);
  player.stop();
  task = null;
}

async function count() {
  const now = await ask(`/api/progress?annotator=${encodeURIComponent(name())}`);
  const parts = [
    [now.open, "to write"],
    [now.returned_to_me, "returned to you"],
    [now.written, "to check"],
    [now.accepted, "accepted"],
  ].filter(([number, what]) => number || what !== "returned to you");
  $("counts").replaceChildren(
    ...parts.map(([number, what]) => element("span", {}, element("b", {}, number), ` ${what}`)),
  );
  return now;
}

// --- one task ------------------------------------------------------------------------------------

async function openTask(role, message) {
  const [given, now] = await Promise.all([ask("/api/tasks", { role }), count()]);
  return () => (given.task ? showTask({ ...given.task, role }, given.lease_s, message) : showEmpty(role, now));
}

function showTask(given, lease_s, message) {
  task = given;
  show("desk");
  renewal = setInterval(renew, (lease_s * 1000) / 3);
  fill();
  player.load(task);
  say("done", message);
  scrollTo(0, 0);
  const typing = matchMedia("(hover: hover)").matches; // elsewhere a keyboard would cover the page
  if (task.role === "write" && typing) $("text").focus({ preventScroll: true });
  else document.activeElement?.blur();
}

function showEmpty(role, now) {
  show("empty");
  $("empty-title").textContent = role === "write" ? "Nothing to write now" : "Nothing to check now";
  const all = now.open + now.written + now.returned;
  $("empty-text").textContent = !all
    ? now.accepted
      ? `All ${now.accepted} captions are accepted. Thank you.`
      : "The manifest has no items."
    : role === "write"
      ? "What is left is with others, or waits to be checked."
      : "Captions appear here when someone else has written them. Nobody checks their own.";
  poll = setTimeout(() => open(), POLL_MS);
}

$("look").addEventListener("click", () => open());

function fill() {
  const writing = task.role === "write";
  $("writing").hidden = !writing;
  $("checking").hidden = writing;
  say("trouble", "");
  $("about").textContent = [task.id, stretch(), task.source].filter(Boolean).join(" · ");
  const before = writing ? `${task.checker} returned this: ${task.reason}` : `Returned before: ${task.reason}`;
  say("returned", task.reason ? before : "");
  $("hints").hidden = !task.hints.length;
  $("hints").querySelector("ul").replaceChildren(...task.hints.map((hint) => element("li", {}, hint)));
  $("drafts").hidden = !task.drafts.length;
  $("drafts").querySelector("div").replaceChildren(...task.drafts.map(draftRow));
  if (writing) {
    $("text").value = localStorage.getItem(typed()) ?? task.text;
    countWords();
  } else {
    $("writer").textContent = task.writer;
    $("caption").textContent = task.text;
    $("reason").value = "";
  }
}

function stretch() {
  return task.end_s === null ? "" : `${task.start_s.toFixed(1)} to ${task.end_s.toFixed(1)} s`;
}

function draftRow(draft) {
  const kind = [draft.about === "audiovisual" ? "" : draft.about, draft.style].filter(Boolean).join(", ");
  const text = element("p", {}, draft.text, kind && element("span", { className: "soft small" }, ` (${kind})`));
  const use = element("button", { type: "button", title: "Put it into the caption" }, "Use");
  use.addEventListener("click", () => useDraft(draft.text));
  return element("div", { className: "draft" }, text, task.role === "write" && use);
}

function useDraft(text) {
  const old = $("text").value.trim();
  $("text").value = old && old !== text ? `${old} ${text}` : text;
  $("text").dispatchEvent(new Event("input"));
  $("text").focus();
}

const typed = () => `valor-annotate-text:${task.id}:${task.slot}`;

function countWords() {
  const number = $("text").value.split(/\s+/).filter(Boolean).length;
  $("words").textContent = number === 1 ? "1 word" : `${number} words`;
}

$("text").addEventListener("input", () => {
  localStorage.setItem(typed(), $("text").value);
  countWords();
});

async function act(action, text, message) {
  if (!task || busy) return;
  busy = true;
  const key = typed();
  say("trouble", "");
  for (const button of $("desk").querySelectorAll("form button")) button.disabled = true;
  try {
    await ask(`/api/captions/${task.slot}`, { action, text });
    if (action === "write") localStorage.removeItem(key);
    await open(message);
  } catch (error) {
    say("trouble", error.message);
    if (error.status === 409) {
      const next = element("button", { type: "button" }, "Take the next");
      next.addEventListener("click", () => open());
      $("trouble").append(" ", next);
    }
  } finally {
    busy = false;
    for (const button of $("desk").querySelectorAll("form button")) button.disabled = false;
  }
}

async function renew() {
  try {
    await ask(`/api/captions/${task.slot}`, { action: "take" });
  } catch (error) {
    say("trouble", error.message);
  }
}

$("writing").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("text").value.trim()) act("write", $("text").value, "Saved.");
  else say("trouble", "The caption is empty.");
});

$("checking").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("reason").value.trim()) return act("return", $("reason").value, "Returned.");
  say("trouble", "Say what is wrong, so that the writer can correct it.");
  $("reason").focus();
});

$("accept").addEventListener("click", () => act("accept", "", "Accepted."));

for (const button of document.querySelectorAll(".skip")) {
  button.addEventListener("click", () => {
    $("skip-reason").value = "";
    $("skip-dialog").returnValue = "";
    $("skip-dialog").showModal();
  });
}
$("skip-dialog").addEventListener("close", () => {
  if ($("skip-dialog").returnValue === "skip") act("skip", $("skip-reason").value, "Skipped.");
});

// --- the recording, from its start to its end and not further --------------------------------------

const player = {
  media: null,
  start: 0,
  end: null,
  loop: false,
  muted: false,

  load({ kind, media, start_s, end_s, has_sound }) {
    this.stop();
    [this.start, this.end] = [start_s, end_s];
    $("stage").className = `stage ${kind}`;
    $("controls").hidden = kind === "image";
    say("media-note", kind !== "image" && has_sound === false ? "This recording has no sound." : "");
    this.media = kind === "image" ? this.image(media) : this.video(media, kind);
    $("stage").replaceChildren(...(kind === "audio" ? [element("p", { className: "label" }, "Sound only")] : []), this.media);
  },

  image(src) {
    const picture = element("img", { src, alt: "The item to be described" });
    picture.addEventListener("error", () => this.broken());
    return picture;
  },

  video(src) {
    const video = element("video", { src, preload: "auto", muted: this.muted, playsInline: true });
    video.addEventListener("loadedmetadata", () => {
      if (video !== this.media) return;
      this.end = Math.min(this.end ?? Infinity, video.duration);
      $("seek").max = this.end - this.start;
      video.currentTime = this.start;
      video.play().catch(() => {}); // Browsers may want a click first.
    });
    video.addEventListener("timeupdate", () => this.tick(video)); // after every seek, too
    for (const event of ["play", "pause"]) {
      video.addEventListener(event, () => {
        $("play").textContent = video.paused ? "Play" : "Pause";
        if (!video.paused) this.watch(video);
      });
    }
    video.addEventListener("error", () => video === this.media && this.broken());
    return video;
  },

  broken() {
    say("media-note", "This browser cannot play the file. If you cannot judge it, skip it.");
    $("controls").hidden = true;
  },

  watch(video) {
    if (video !== this.media || video.paused) return;
    this.tick(video);
    requestAnimationFrame(() => this.watch(video));
  },

  tick(video) {
    if (video !== this.media || this.end === null) return;
    if (!video.paused && (video.currentTime >= this.end || video.ended)) {
      if (this.loop) video.currentTime = this.start;
      else video.pause();
    }
    const length = this.end - this.start;
    const at = Math.min(Math.max(video.currentTime - this.start, 0), length);
    $("seek").value = at;
    $("time").textContent = `${at.toFixed(1)} / ${length.toFixed(1)} s`;
  },

  toggle() {
    const video = this.media;
    if (!video?.play) return;
    if (!video.paused) return video.pause();
    if (video.currentTime >= this.end - 0.05) video.currentTime = this.start;
    video.play().catch(() => {});
  },

  seek(at) {
    if (this.media?.play && this.end !== null) {
      this.media.currentTime = Math.min(Math.max(this.start + at, this.start), this.end);
    }
  },

  step(seconds) {
    if (this.media?.play) this.seek(this.media.currentTime - this.start + seconds);
  },

  stop() {
    if (this.media?.pause) {
      const video = this.media;
      this.media = null;
      video.pause();
      video.removeAttribute("src"); // Ends the download.
      video.load();
    }
    $("seek").value = 0;
    $("time").textContent = "";
    $("play").textContent = "Play";
  },

  setLoop(on) {
    this.loop = on;
    $("loop").setAttribute("aria-pressed", on);
    if (on && this.media?.paused) this.toggle();
  },

  setMuted(on) {
    this.muted = on;
    $("mute").setAttribute("aria-pressed", on);
    if (this.media?.play) this.media.muted = on;
  },
};

$("play").addEventListener("click", () => player.toggle());
$("seek").addEventListener("input", () => player.seek(Number($("seek").value)));
$("loop").addEventListener("click", () => player.setLoop(!player.loop));
$("mute").addEventListener("click", () => player.setMuted(!player.muted));

// --- progress ------------------------------------------------------------------------------------

const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const decimal = (value) => (value === null ? "–" : value.toFixed(2));

async function openProgress() {
  const [numbers] = await Promise.all([ask("/api/report"), count()]);
  return () => showProgress(numbers);
}

function showProgress(numbers) {
  const { captions, annotators } = numbers;
  const rows = [
    ["Items", numbers.num_items],
    ["Captions to write", captions.open],
    ["Captions to check", captions.written],
    ["Returned to their writers", captions.returned],
    ["Accepted", captions.accepted],
    ["In someone's hands now", captions.taken],
    ["Words per accepted caption", decimal(numbers.words_per_caption)],
    [`Accepted at the first check, of ${numbers.num_checked}`, percent(numbers.first_check_accepted_fraction)],
  ];
  if (numbers.num_double) rows.push([`ROUGE-L of two writers, ${numbers.num_double} pairs`, decimal(numbers.double_rouge_l)]);
  if (numbers.audio_concepts_per_word !== null) {
    rows.push(
      ["Captions that name a sound", percent(numbers.with_audio_concept_fraction)],
      ["Sounds per caption", decimal(numbers.audio_concepts_per_caption)],
      ["Sounds per word", percent(numbers.audio_concepts_per_word)],
    );
  }
  const actions = ["write", "accept", "return", "skip"];
  const people = Object.entries(annotators).map(([who, did]) => [who, ...actions.map((key) => did[key] ?? 0)]);
  $("progress").replaceChildren(
    element("h2", {}, "Progress"),
    element("div", { className: "card scroll" }, table([], rows)),
    element("h2", {}, "People"),
    people.length
      ? element("div", { className: "card scroll" }, table(["Name", "Written", "Accepted", "Returned", "Skipped"], people))
      : element("p", { className: "soft" }, "Nobody has written anything yet."),
  );
  show("progress");
}

function table(heads, rows) {
  const cells = (row) => row.map((cell, at) => element(at ? "td" : "th", { className: at ? "number" : "" }, cell));
  const head = heads.length ? [element("tr", {}, ...heads.map((text, at) => element("th", { className: at ? "number" : "" }, text)))] : [];
  return element("table", {}, ...head, ...rows.map((row) => element("tr", {}, ...cells(row))));
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== false && child !== ""));
  return made;
}


// --- keys ----------------------------------------------------------------------------------------

const KEYS = {
  l: () => player.setLoop(!player.loop),
  m: () => player.setMuted(!player.muted),
  arrowleft: () => player.step(-1),
  arrowright: () => player.step(1),
  c: () => task.role === "write" && $("text").focus(),
  d: () => task.role === "write" && task.drafts.length && useDraft(task.drafts[0].text),
  a: () => task.role === "check" && act("accept", "", "Accepted."),
  r: () => task.role === "check" && $("reason").focus(),
};

document.addEventListener("keydown", (event) => {
  if (!task || document.querySelector("dialog[open]")) return;
  const target = event.target;
  const form = target.closest?.("form");
  if (event.key === "Enter" && event.shiftKey) player.toggle();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    (form ?? $(task.role === "write" ? "writing" : "checking")).requestSubmit();
  } else if (target.matches("textarea, input[type=text]")) {
    if (event.key === "Escape") target.blur();
    return;
  } else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === " " && !target.matches("button, summary, a")) player.toggle();
  else if (KEYS[event.key.toLowerCase()] && !(target.matches("input") && event.key.startsWith("Arrow"))) {
    KEYS[event.key.toLowerCase()]();
  } else return;
  event.preventDefault();
});

addEventListener("hashchange", () => open());
open();
