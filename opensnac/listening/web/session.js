"use strict";

// One listener's session: the answers so far, kept in the browser and by the server, if there is one. The copy with the
// higher revision counts, so nothing is lost by a reload or a crash of either.
class Session {
  static retry = 3000; // milliseconds

  constructor(test, onStatus) {
    this.test = test;
    this.onStatus = onStatus;
    this.served = location.protocol.startsWith("http");
    this.id = this.name();
    this.sending = null;
    this.unsent = false;
  }

  name() {
    const given = /^#([0-9a-f]{16})$/.exec(location.hash);
    const id = given ? given[1] : localStorage.getItem(`listen/${this.test.test}`) ?? Session.hex(8);
    localStorage.setItem(`listen/${this.test.test}`, id);
    history.replaceState(null, "", `#${id}`); // so that a bookmark or a restored tab returns to it
    return id;
  }

  get place() {
    return `listen/${this.test.test}/${this.id}`;
  }

  async open() {
    const here = JSON.parse(localStorage.getItem(this.place) ?? "null");
    const there = await this.fetched();
    this.state = [here, there].filter(Boolean).sort((a, b) => b.revision - a.revision)[0] ?? this.fresh();
    if (this.state.revision > (there?.revision ?? 0)) this.save(false);
    return this.state;
  }

  async fetched() {
    if (!this.served) return null;
    try {
      const answer = await fetch(`answers/${this.id}`, { cache: "no-store" });
      return answer.status === 200 ? await answer.json() : null;
    } catch {
      return null; // no server, or one that crashed: continue with the local copy
    }
  }

  fresh() {
    const now = new Date().toISOString();
    const trial = ({ trial, stimuli }, training) => ({
      trial, training, order: Session.shuffled(stimuli), scores: {}, confirmed: false, seconds: 0, loops: 0,
    });
    const shown = (training) => Session.shuffled(this.test.trials).map((one) => trial(one, training));
    return {
      schema: 1,
      test: this.test.test,
      session: this.id,
      revision: 1,
      simulated: new URLSearchParams(location.search).has("simulated"),
      listener: "",
      started: now,
      changed: now,
      finished: false,
      trials: [...(this.test.training ? shown(true) : []), ...shown(false)],
    };
  }

  save(changed = true) {
    if (changed) {
      this.state.revision += 1;
      this.state.changed = new Date().toISOString();
    }
    localStorage.setItem(this.place, JSON.stringify(this.state));
    this.unsent = this.served;
    if (this.served) this.send();
    else this.onStatus("Kept in this browser.");
  }

  // One request at a time, always of the newest state; retried until the server has it.
  send() {
    if (this.sending) return this.sending;
    this.sending = (async () => {
      while (this.unsent) {
        this.unsent = false;
        try {
          const body = JSON.stringify(this.state);
          const answer = await fetch(`answers/${this.id}`, { method: "PUT", body, keepalive: body.length < 60000 });
          if (!answer.ok) throw new Error(await answer.text());
          this.onStatus("Kept by the server.");
        } catch (error) {
          this.unsent = true;
          this.onStatus(`Kept in this browser; the server refused it (${String(error.message).trim()}). Trying again.`);
          await new Promise((resolve) => setTimeout(resolve, Session.retry));
        }
      }
      this.sending = null;
    })();
    return this.sending;
  }

  static hex(bytes) {
    return [...crypto.getRandomValues(new Uint8Array(bytes))].map((one) => one.toString(16).padStart(2, "0")).join("");
  }

  static shuffled(items) {
    const keyed = items.map((item) => [crypto.getRandomValues(new Uint32Array(1))[0], item]);
    return keyed.sort((a, b) => a[0] - b[0]).map(([, item]) => item);
  }
}
