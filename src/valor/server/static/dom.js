// Small helpers to make elements, and words for times and modalities.

export const $ = (id) => document.getElementById(id);

/** Make an element: h("a.name", {href, onclick, dataset...}, ...children). */
export function h(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const PATHS = {
  vision: "M2 12s3.6-6.5 10-6.5S22 12 22 12s-3.6 6.5-10 6.5S2 12 2 12Zm10 2.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6Z",
  audio: "M4 10v4m4-8v12m4-9v6m4-10v14m4-9v4",
  text: "M5 6h14M5 12h14M5 18h9",
  close: "m6 6 12 12M18 6 6 18",
  previous: "m14.5 5-7 7 7 7",
  next: "m9.5 5 7 7-7 7",
  play: "M8 5.5v13l10.5-6.5Z",
  folder: "M3 7a2 2 0 0 1 2-2h4l2 2.5h8a2 2 0 0 1 2 2V17a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2Z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Zm0-5v2m0 14v2m9-9h-2M5 12H3m15.4-6.4-1.5 1.5M7.1 16.9l-1.5 1.5m12.8 0-1.5-1.5M7.1 7.1 5.6 5.6",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
  half: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Zm0 0v18",
  download: "M12 4v11m0 0 4-4m-4 4-4-4M5 19h14",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name] ?? PATHS.text);
  svg.append(path);
  return svg;
}

/** Seconds as 1:02:03, or 0:04.5 where tenths matter. */
export function clock(seconds, tenths = false) {
  const whole = Math.floor(seconds + 1e-6);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  const fraction = tenths ? "." + Math.floor((seconds - whole + 1e-6) * 10) : "";
  return (hours ? `${hours}:${two(minutes)}` : `${minutes}`) + `:${two(rest)}${fraction}`;
}

/** Seconds in words, for waiting. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  return `${(seconds / 3600).toFixed(1)}\u00a0h`;
}

export const count = (number, one, many = one + "s") =>
  `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const WORDS = { vision: "seen", audio: "heard", speech: "said", screen: "read", text: "text" };
export const wordOf = (modality) => WORDS[modality] ?? modality;

const USED = { vision: "picture", audio: "sound", audiovisual: "picture and sound", "": "nothing" };
export const usedOf = (group) => USED[group] ?? group;

/** A badge that says which modalities a text was made from. */
export function usedBadge(group) {
  const icons = { vision: ["vision"], audio: ["audio"], audiovisual: ["vision", "audio"] }[group] ?? [];
  return h("span.used", { title: "Modalities used" }, ...icons.map(icon), `from ${usedOf(group)}`);
}
