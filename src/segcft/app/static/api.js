// Talking to the server: errors carry its message, and of many questions in a row only the newest waits.

export class ServerError extends Error {}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is segcft app still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ServerError(told.error || `The server answered ${response.status}.`);
}

const asJson = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

export const models = async () => (await call("/api/models")).json();
export const describe = async (name) => (await call(`/api/models/${encodeURIComponent(name)}`)).json();
export const fileOf = async (question, format) => (await call(`/api/file/${format}`, asJson(question))).blob();

export async function upload(model, file, millimetres) {
  const headers = { "Content-Type": "application/octet-stream" };
  const sized = millimetres ? `&millimetres=${millimetres.join(",")}` : "";
  const path = `/api/upload?model=${encodeURIComponent(model)}${sized}`;
  // The file's name may be a patient's: it stays here.
  const body = await file.arrayBuffer();
  return (await call(path, { method: "POST", headers, body })).json();
}

const LEAST_PAUSE = 40; // ms between two questions: the eye sees no more

// Asks one question at a time. While one is under way the newest waits, and replaces an older one that did.
export class Asker {
  constructor(show, fail) {
    Object.assign(this, { show, fail, waiting: null, busy: false, abort: new AbortController() });
  }

  // What a question is `of` is the asker's own: it is not sent.
  ask(question) {
    this.waiting = question;
    if (!this.busy) this.run();
  }

  // Forget what is under way: it is about another image.
  forget() {
    this.abort.abort();
    this.abort = new AbortController();
    this.waiting = null;
  }

  async run() {
    this.busy = true;
    while (this.waiting) {
      const question = this.waiting;
      const { signal } = this.abort;
      this.waiting = null;
      try {
        const response = await call("/api/question", { ...asJson({ ...question, of: undefined }), signal });
        const answer = await response.json();
        if (!signal.aborted) this.show(answer, question);
      } catch (error) {
        if (!signal.aborted) this.fail(error);
      }
      await new Promise((go) => setTimeout(go, LEAST_PAUSE));
    }
    this.busy = false;
  }
}
