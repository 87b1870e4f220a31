// The library sheet: index folders with live progress.

import { $, count, duration, h, icon } from "./dom.js";
import * as api from "./api.js";

const POLL_MS = 700;

export function setUpLibrary(getLibrary, onChange) {
  const dialog = $("library");
  let timer = null;
  const ended = new Set();
  let known = false;

  const refresh = async () => {
    clearTimeout(timer);
    let jobs = [];
    try {
      jobs = await api.jobs();
    } catch {
      return; // The server is gone, or wants a token: the page says so elsewhere.
    }
    const active = jobs.filter((job) => ["waiting", "running"].includes(job.state));
    $("busy").hidden = active.length === 0;
    const fresh = jobs.filter((job) => !active.includes(job) && !ended.has(job.id));
    for (const job of fresh) ended.add(job.id);
    if (fresh.length && known) {
      await onChange();
      const facts = dialog.querySelector(".library-facts");
      if (facts) facts.textContent = summaryOf(getLibrary());
    }
    known = true;
    if (dialog.open) show(jobs);
    if (active.length) timer = setTimeout(refresh, POLL_MS);
  };

  const show = (jobs) => {
    const list = dialog.querySelector(".jobs");
    if (!list) return;
    list.replaceChildren(...jobs.slice(0, 12).map((job) => jobRow(job, refresh)));
    if (!jobs.length) list.append(h("p.muted", { text: "Nothing has been indexed since the server started." }));
  };

  const open = () => {
    dialog.replaceChildren(...content(getLibrary(), refresh, () => dialog.close()));
    dialog.showModal();
    refresh();
  };
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  $("open-library").addEventListener("click", open);
  refresh();
}

function content(library, refresh, close) {
  const roots = library?.roots ?? [];
  const problem = h("p.problem", { hidden: true });
  const folder = h("input", {
    type: "text", id: "folder", list: "roots", maxlength: "4096", spellcheck: false,
    placeholder: roots.length ? "All folders, or one below them" : "No folder is shared",
  });
  const describe = h("input", { type: "checkbox", id: "captions" });
  const button = h("button.primary", { type: "submit", text: "Index", disabled: !roots.length });
  const form = h("form.index", {
    onsubmit: async (event) => {
      event.preventDefault();
      problem.hidden = true;
      button.disabled = true;
      const path = folder.value.trim();
      try {
        await api.startJob({ kind: "index", paths: path ? [path] : [], describe: describe.checked });
        folder.value = "";
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
      }
      button.disabled = false;
      refresh();
    },
  },
    h("label", { for: "folder", text: "Folder" }),
    h("div.field", {}, folder, button),
    library?.describes ? h("label.check", { for: "captions" }, describe, "Caption every moment (slower)") : null,
    problem);
  return [
    h("header.head", {}, h("h2", { id: "library-title", text: "Library" }),
      h("button.quiet.icon", { type: "button", "aria-label": "Close (Esc)", onclick: close }, icon("close"))),
    h("p.muted.library-facts", { text: library ? summaryOf(library) : "" }),
    h("ul.roots", {}, ...roots.map((root) => h("li", {}, icon("folder"), root))),
    roots.length ? form : h("p.notice", { text: "Start the server with --root FOLDER to index from here." }),
    h("h3", { text: "Activity" }),
    h("div.jobs", { "aria-live": "polite" }),
  ];
}

const summaryOf = (library) =>
  `${library.name}: ${count(library.num_files, "recording")}, ${count(library.num_segments, "moment")}, model ${library.fingerprint.slice(0, 8)}`;

const STATES = { waiting: "Waiting", running: "Working", done: "Done", failed: "Failed", stopped: "Stopped" };

function jobRow(job, refresh) {
  const active = job.state === "running" || job.state === "waiting";
  const bar = h("progress", { max: "1", "aria-label": `Progress of ${job.title}` });
  if (job.state === "running" && job.done_fraction > 0) bar.value = job.done_fraction;
  const left = job.left_s === null ? "" : ` · ${duration(job.left_s)} left`;
  const row = h(`article.job.${job.state}`, {},
    h("div.title", {}, h("strong", { text: job.title }), h("span.state", { text: STATES[job.state] }),
      active ? h("button.quiet", { type: "button", text: "Stop", onclick: () => api.stopJob(job.id).then(refresh) }) : null),
    active ? bar : null,
    h("p.muted", { text: active
      ? `${Math.round(job.done_fraction * 100)} %${left}${job.message ? " · " + job.message : ""}` : summary(job) }));
  const bad = job.result?.bad ?? [];
  if (bad.length) {
    row.append(h("details", {}, h("summary", { text: `${count(bad.length, "file")} left out` }),
      h("ul", {}, ...bad.map((one) => h("li", {}, h("strong", { text: one.path }), ` ${one.detail}`)))));
  }
  return row;
}

function summary(job) {
  if (job.state !== "done") return job.message;
  if (job.kind !== "index") return `${count(job.result.parts.length, "part")} captioned in ${duration(job.elapsed_s)}`;
  const { added, skipped, num_segments: segments } = job.result;
  if (!added) return `Nothing new; ${count(skipped, "recording")} unchanged`;
  const unchanged = skipped ? `, ${skipped} unchanged` : "";
  return `${count(added, "recording")} added with ${count(segments, "moment")}${unchanged}, in ${duration(job.elapsed_s)}`;
}
