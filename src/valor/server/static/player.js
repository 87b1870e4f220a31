// One moment: the recording from there on, where its other hits are, what it sounds like, and a
// panel that describes it and answers questions.

import { $, clock, h, icon, wordOf } from "./dom.js";
import * as api from "./api.js";
import { describePanel } from "./describe.js";

const WINDOW_S = 600; // Longer recordings show this much of themselves under the player.

let stop = null; // Ends what the open player does.

export async function openPlayer(hit, hits, context) {
  const dialog = $("player");
  stop?.();
  const abort = new AbortController();
  const body = h("div.stage-and-panel", {}, h("div.stage.loading", {}, h("p.wait", { text: "Opening…" })));
  dialog.replaceChildren(head(hit, hits, context), body);
  if (!dialog.open) dialog.showModal();
  stop = () => abort.abort();
  dialog.onclose = () => {
    stop?.();
    stop = null;
    dialog.replaceChildren();
  };
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // An arrow that returned false would cancel clicks.
  };
  try {
    const info = await api.info(hit.media);
    if (abort.signal.aborted) return;
    const player = makePlayer(info, hit, abort.signal);
    const line = timeline(info, hit, hits, player);
    const stage = h("div.watch", {}, player.element, line, facts(info, hit));
    body.replaceChildren(stage, describePanel(hit, info, context, abort.signal, player.seek));
    dialog.onkeydown = (event) => keys(event, player, hit, hits, context);
    player.start(Math.max(hit.start_s, hit.moment_s - 1));
  } catch (error) {
    if (abort.signal.aborted) return;
    body.replaceChildren(h("div.notice.error", {}, h("h2", { text: "This recording cannot be shown" }),
      h("p", { text: error.message })));
  }
}

function head(hit, hits, context) {
  const index = hits.indexOf(hit);
  const go = (step) => openPlayer(hits[index + step], hits, context);
  const button = (name, label, step) => h("button.quiet.icon", {
    type: "button", "aria-label": label, title: label, onclick: () => go(step), disabled: !hits[index + step],
  }, icon(name));
  return h("header.head", {},
    h("div", {},
      h("h2", { id: "player-title", text: hit.name }),
      h("p.muted", { text: `${hit.path.replace(/\/[^/]*$/, "")} · ${index + 1} of ${hits.length}` })),
    h("div.actions", {},
      button("previous", "Previous result (p)", -1),
      button("next", "Next result (n)", 1),
      h("button.quiet.icon", { type: "button", "aria-label": "Close (Esc)", title: "Close (Esc)", onclick: () => $("player").close() },
        icon("close"))));
}

function facts(info, hit) {
  const scores = Object.entries(hit.by_modality).map(([name, score]) =>
    h(`span.match.${name}`, {}, icon(name), `${wordOf(name)} ${score.toFixed(2)}`));
  const size = info.width ? `${info.width}×${info.height}` : "sound only";
  const kind = info.is_playable ? "" : " · shown as a 360p preview";
  return h("p.facts-line", {}, ...scores,
    h("span.muted", { text: info.is_image ? size : `${size} · ${clock(info.duration_s)}${kind}` }),
    h("a.muted", { href: api.address.file(info.media), download: info.name }, icon("download"), "Original"));
}

// ---- playing -------------------------------------------------------------------------------

function makePlayer(info, hit, signal) {
  if (info.is_image) {
    const source = info.is_playable ? api.address.file(info.media) : api.address.poster(info.media, 0);
    const picture = h("img.still", { src: source, alt: info.name });
    return { element: h("div.stage", {}, picture), start() {}, seek() {}, time: () => 0, toggle() {}, onTime() {} };
  }
  const video = h("video", { controls: true, playsInline: true, preload: "auto" });
  const wait = h("p.wait", { text: "Preparing a preview…", hidden: true });
  const stage = h("div.stage", {}, video, wait);
  if (!info.has_video) {
    stage.classList.add("sound-only");
    const end = Math.min(info.duration_s, hit.start_s + 30);
    video.poster = api.address.sound(info.media, Math.max(0, hit.start_s - 2), Math.max(end, 1), 960, 400);
  }
  const parts = info.preview_part_s;
  let inParts = !info.is_playable;
  let part = -1;
  const offset = () => (inParts ? part * parts : 0);
  const load = (at) => {
    if (!inParts) {
      if (!video.src) video.src = api.address.file(info.media);
      video.currentTime = at;
      return;
    }
    const next = Math.floor(Math.min(at, info.duration_s - 0.01) / parts);
    if (next !== part) {
      part = next;
      wait.hidden = false;
      video.src = api.address.preview(info.media, part);
    }
    video.currentTime = Math.max(0, at - offset());
  };
  video.addEventListener("loadeddata", () => (wait.hidden = true));
  video.addEventListener("ended", () => {
    if (inParts && (part + 1) * parts < info.duration_s - 0.05) {
      load((part + 1) * parts);
      video.play().catch(() => {});
    }
  });
  video.addEventListener("error", () => {
    if (signal.aborted || !video.getAttribute("src")) return;
    if (inParts) {
      wait.hidden = false;
      wait.textContent = "This part of the recording cannot be decoded.";
      return;
    }
    const at = video.currentTime || hit.start_s; // The browser cannot play it after all.
    inParts = true;
    load(at);
  });
  signal.addEventListener("abort", () => {
    video.pause();
    video.removeAttribute("src");
    video.load();
  });
  return {
    element: stage,
    start(at) {
      load(at);
      video.play().catch(() => {});
    },
    seek: load,
    time: () => offset() + video.currentTime,
    toggle: () => (video.paused ? video.play().catch(() => {}) : video.pause()),
    onTime(listener) {
      const follow = () => {
        if (signal.aborted) return;
        listener(offset() + video.currentTime);
        requestAnimationFrame(follow);
      };
      follow();
    },
  };
}

// ---- timeline ------------------------------------------------------------------------------

function timeline(info, hit, hits, player) {
  if (info.is_image) return null;
  const length = Math.min(info.duration_s, WINDOW_S);
  const latest = Math.max(0, info.duration_s - length);
  const begin = length < info.duration_s ? Math.min(latest, Math.max(0, hit.start_s - length / 2)) : 0;
  const place = (time) => `${(100 * (time - begin)) / length}%`;
  const track = h("div.track", {
    role: "slider", tabIndex: 0, "aria-label": "Position", "aria-valuemin": "0", "aria-valuemax": String(Math.round(info.duration_s)),
  });
  if (info.has_audio) {
    const picture = h("img", { src: api.address.sound(info.media, begin, begin + length, 1200, 96), alt: "Spectrogram" });
    picture.addEventListener("error", () => picture.remove());
    track.append(picture);
  } else {
    track.append(h("p.silent", { text: "no sound" }));
  }
  const others = hits.filter((other) => other.media === hit.media && other.end_s > begin && other.start_s < begin + length);
  for (const other of others) {
    const range = h(`span.range.${other.matched || "text"}`, { title: `${clock(other.start_s)} ${other.caption ?? ""}` });
    range.classList.toggle("current", other === hit);
    range.style.left = place(other.start_s);
    range.style.width = `${(100 * (other.end_s - other.start_s)) / length}%`;
    track.append(range);
  }
  const needle = h("span.needle");
  const now = h("output", { text: clock(hit.start_s, true) });
  track.append(needle);
  const seekTo = (event) => {
    const box = track.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    player.seek(begin + share * length);
  };
  track.addEventListener("pointerdown", (event) => {
    track.setPointerCapture(event.pointerId);
    seekTo(event);
    track.onpointermove = seekTo;
  });
  track.addEventListener("pointerup", () => (track.onpointermove = null));
  player.onTime((time) => {
    needle.style.left = place(Math.min(Math.max(time, begin), begin + length));
    now.textContent = clock(time, true);
    track.setAttribute("aria-valuenow", String(Math.round(time)));
    track.setAttribute("aria-valuetext", clock(time));
  });
  return h("div.timeline", {}, track,
    h("div.scale", {}, h("span", { text: clock(begin) }), now, h("span", { text: clock(begin + length) })));
}

function keys(event, player, hit, hits, context) {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = hits.indexOf(hit);
  const inVideo = event.target.matches("video, button") && event.key === " ";
  const actions = {
    " ": () => player.toggle(),
    k: () => player.toggle(),
    ArrowLeft: () => player.seek(Math.max(0, player.time() - 2)),
    ArrowRight: () => player.seek(player.time() + 2),
    n: () => hits[index + 1] && openPlayer(hits[index + 1], hits, context),
    p: () => hits[index - 1] && openPlayer(hits[index - 1], hits, context),
    0: () => player.seek(hit.start_s),
  };
  if (inVideo || !(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}
