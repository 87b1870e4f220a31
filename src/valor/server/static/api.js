// The server's routes. Errors are RFC 9457 problems; they become an ApiError.

export class ApiError extends Error {
  constructor(status, detail, retryAfter = 0) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function checked(promise) {
  let response;
  try {
    response = await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const after = Number(response.headers.get("Retry-After") ?? 0);
  throw new ApiError(response.status, problem.detail ?? `The server says ${response.status}.`, after);
}

const json = (method, path, body, signal) =>
  checked(fetch(path, {
    method,
    signal,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  }));

const data = async (promise) => (await promise).json();

export const library = () => data(json("GET", "/library"));
export const search = (body, signal) => data(json("POST", "/search", body, signal));
export const info = (media) => data(json("GET", `/media/${media}/info`));
export const jobs = () => data(json("GET", "/jobs"));
export const startJob = (body) => data(json("POST", "/jobs", body));
export const stopJob = (id) => data(json("DELETE", `/jobs/${id}`));

export const upload = (file) =>
  data(checked(fetch("/uploads", { method: "POST", headers: { "Content-Type": file.type }, body: file })));

export const address = {
  file: (media) => `/media/${media}`,
  poster: (media, at) => `/media/${media}/poster?at_s=${at.toFixed(2)}`,
  sound: (media, start, end, width = 480, height = 120) =>
    `/media/${media}/sound?start_s=${start.toFixed(2)}&end_s=${end.toFixed(2)}&width=${width}&height=${height}`,
  preview: (media, part) => `/media/${media}/preview?part=${part}`,
};

/** Ask for a caption or an answer; calls `on.text` after every word and `on.part` for each part, returns the whole. */
export async function describe(route, body, on, signal) {
  const response = await json("POST", route, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(0, "The answer broke off.");
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      const content = JSON.parse(/^data: (.*)$/m.exec(event)[1]);
      if (name === "text") on.text(content);
      if (name === "part") on.part(content);
      if (name === "problem") throw new ApiError(content.status, content.detail);
      if (name === "done") return content;
    }
  }
}
