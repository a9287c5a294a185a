// The server beside this page, which holds the model. Addresses are relative: the page's own has the token.

const server = {
  async ask(method, path, body) {
    const options = { method, headers: {} };
    if (body !== undefined) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch(`api/${path}`, options);
    } catch {
      throw new Error("The server does not answer; was it ended? Start it again, and open the address that it prints.");
    }
    const value = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(value.message ?? `The server answered with status ${answer.status}.`);
    return value;
  },

  all() {
    return this.ask("GET", "jobs");
  },

  add(kind, asked) {
    return this.ask("POST", "jobs", { kind, arguments: asked });
  },

  remove(id) {
    return this.ask("DELETE", `jobs/${id}`);
  },

  result(id) {
    return this.ask("GET", `jobs/${id}/result`);
  },
};
