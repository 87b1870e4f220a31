// The panel beside the player: what this moment is about, questions about it, and more like it.

import { clock, h, icon, usedBadge } from "./dom.js";
import * as api from "./api.js";

export function describePanel(hit, info, context, signal, seek) {
  const panel = h("aside.panel", { "aria-label": "Caption and questions" });
  panel.append(likeThis(hit, info, context));
  if (!context.describes) {
    if (hit.caption) panel.append(h("section", {}, h("h3", { text: "Caption" }), h("p.text", { text: hit.caption })));
    panel.append(h("p.muted", { text: "This library's model only searches. Start the server with --describer to caption and ask." }));
    return panel;
  }
  const scope = choice("About", [["moment", "This moment"], ["all", "Whole recording"]]);
  const using = choice("From", [["audiovisual", "Both"], ["vision", "Seen"], ["audio", "Heard"]]);
  const about = () => ({
    media: hit.media,
    using: using.value(),
    ...(scope.value() === "all" || info.is_image ? {} : { start_s: hit.start_s, end_s: hit.end_s }),
  });
  const settings = h("div.settings", {}, info.is_image ? null : scope.element,
    info.has_video && info.has_audio ? using.element : null);
  panel.append(settings, captionSection(hit, about, signal, seek), askSection(about, signal, seek));
  return panel;
}

function likeThis(hit, info, context) {
  const more = (by, label, name) => h("button.chip", {
    type: "button",
    onclick: () => {
      document.getElementById("player").close();
      context.searchLike(hit, by);
    },
  }, icon(name), label);
  return h("div.more", {},
    info.has_video ? more("image", "Looks alike", "vision") : null,
    info.has_audio ? more("audio", "Sounds alike", "audio") : null);
}

function choice(label, options) {
  let value = options[0][0];
  const buttons = options.map(([name, text]) => h("button", {
    type: "button", text, "aria-pressed": String(name === value),
    onclick: (event) => {
      value = name;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.target));
    },
  }));
  return { value: () => value, element: h("div.segmented", { role: "group", "aria-label": label }, ...buttons) };
}

function captionSection(hit, about, signal, seek) {
  const output = h("div.said", { "aria-live": "polite" });
  if (hit.caption) output.append(h("p.text", { text: hit.caption }), h("p.muted", { text: "from the index" }));
  const button = h("button.primary", {
    type: "button", text: "Describe", onclick: () => stream("/caption", about(), output, button, signal, seek),
  });
  return h("section", {}, h("div.title", {}, h("h3", { text: "Caption" }), button), output);
}

function askSection(about, signal, seek) {
  const answers = h("div.answers", { "aria-live": "polite" });
  const input = h("input", { type: "text", maxlength: "1000", placeholder: "What makes the sound?", "aria-label": "Question" });
  const button = h("button.primary", { type: "submit", text: "Ask" });
  const form = h("form.ask", {
    onsubmit: (event) => {
      event.preventDefault();
      const question = input.value.trim();
      if (!question) return;
      input.value = "";
      const output = h("div.said");
      answers.prepend(h("article", {}, h("p.question", { text: question }), output));
      stream("/ask", { ...about(), question }, output, button, signal, seek);
    },
  }, input, button);
  return h("section", {}, h("h3", { text: "Ask" }), form, answers);
}

async function stream(route, body, output, button, signal, seek) {
  const isAnswer = route === "/ask";
  const text = h("p.text.typing");
  const parts = h("ol.parts");
  const waiting = isAnswer ? "Listening and looking…" : "Looking and listening…";
  let meta = h("p.muted", { text: waiting });
  const show = (...children) => {
    const next = h("p.meta", {}, ...children);
    meta.replaceWith(next);
    meta = next;
  };
  output.replaceChildren(text, parts, meta);
  button.disabled = true;
  const said = (part) => {
    if (part.of === 1) {
      text.textContent = part.text;
      if (part.modalities_used) show(usedBadge(part.modalities_used));
      return null;
    }
    if (parts.children.length < part.number) parts.append(partRow(part, seek));
    show(h("span.muted", { text: `${part.number} of ${part.of} parts` }));
    const row = parts.lastChild.lastChild;
    row.textContent = part.text;
    return row;
  };
  try {
    const whole = await api.describe(route, body, {
      text: said,
      part: (part) => {
        const row = said(part);
        if (row && !part.text) row.textContent = "nothing to use";
      },
    }, signal);
    text.textContent = whole.parts.length > 1 && !isAnswer ? "" : whole.text || "The model says nothing.";
    const sure = whole.confidence === null ? null : h("span.muted", { text: `${Math.floor(whole.confidence * 100)} % sure` });
    show(usedBadge(whole.modalities_used), sure);
    if (isAnswer && whole.parts.length > 1) wrap(parts, `Answers of all ${whole.parts.length} parts`);
    output.dataset.done = "";
    output.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    if (error.name === "AbortError") return;
    meta.replaceWith(h("p.problem", { text: error.message }));
  } finally {
    text.classList.remove("typing");
    button.disabled = false;
  }
}

function partRow(part, seek) {
  const start = h("button.link", { type: "button", text: clock(part.start_s), onclick: () => seek(part.start_s) });
  return h("li", {}, start, h("span"));
}

function wrap(list, summary) {
  const details = h("details", {}, h("summary", { text: summary }));
  list.replaceWith(details);
  details.append(list);
}
