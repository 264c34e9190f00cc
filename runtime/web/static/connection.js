// The WebSocket to the run: opens itself again, and knows when it is dead without being told.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10000;
const SILENCE = 6000; // the server says something every second

/** A packet's parts, as runtime/web/packet.py writes them. */
export function parsePacket(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const picture = new Blob([new Uint8Array(buffer, at, header.picture)], { type: "image/jpeg" });
  at += header.picture;
  const maps = header.maps.map((map) => {
    const cells = new Uint8Array(buffer, at, map.rows * map.columns);
    at += cells.length;
    return { ...map, cells };
  });
  return { header, picture, maps };
}

export class Connection {
  /** @param handlers {onLink(state, reason), onHello(document), onStatus(document), onPacket(packet)} */
  constructor(handlers) {
    this.handlers = handlers;
    this.failures = 0;
    this.stream = 0;
    this.clock = Infinity; // this clock minus the run's, in seconds; the least seen is the truest
    this.clocks = [];
    document.addEventListener("visibilitychange", () => this.#visibility());
    window.addEventListener("online", () => this.#openNow());
    window.addEventListener("pageshow", () => this.#openNow());
    setInterval(() => this.#checkSilence(), 1000);
    this.#open();
  }

  /** Show a stream from now on. */
  watch(stream) {
    this.stream = stream;
    this.#say({ watch: document.hidden ? null : stream });
  }

  /** The picture that came last has been shown: the next may be sent. */
  shown() {
    this.#say({ shown: true });
  }

  /** Age in seconds of something that happened at `moment` of the run's clock. */
  age(moment) {
    return Math.max(0, performance.now() / 1000 - this.clock - moment);
  }

  #say(document_) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(document_));
  }

  #open() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const url = new URL("stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = url.hash = "";
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    this.heard = performance.now();
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.clocks = [];
      this.watch(this.stream);
    };
    socket.onmessage = (event) => {
      this.heard = performance.now();
      if (typeof event.data !== "string") {
        const packet = parsePacket(event.data);
        this.#compareClocks(packet.header.encoded);
        this.handlers.onPacket(packet);
        return;
      }
      const said = JSON.parse(event.data);
      if (said.kind === "hello") {
        this.failures = 0;
        this.handlers.onLink("open", "");
        this.handlers.onHello(said);
      } else if (said.kind === "status") {
        this.#compareClocks(said.now);
        this.handlers.onStatus(said);
      }
    };
    socket.onclose = () => {
      if (socket === this.socket) this.#lost(opened);
    };
  }

  async #lost(opened) {
    this.socket = undefined;
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures) * (0.5 + Math.random());
    this.failures += 1;
    this.timer = setTimeout(() => this.#open(), wait);
    this.handlers.onLink("closed", "disconnected, trying again");
    if (opened) return;
    // A refused WebSocket does not say why; an ordinary request does.
    try {
      const answer = await fetch("api/status", { cache: "no-store" });
      if (answer.status === 401) location.reload();
      else if (answer.ok) this.handlers.onLink("closed", "too many viewers, trying again");
    } catch {
      // nobody there: that is what the page says already
    }
  }

  #openNow() {
    if (!this.socket && !document.hidden) this.#open();
  }

  #visibility() {
    if (document.hidden) this.#say({ watch: null });
    else if (this.socket) this.watch(this.stream);
    else this.#open();
  }

  #checkSilence() {
    if (!this.socket || performance.now() - this.heard < SILENCE) return;
    const socket = this.socket;
    const opened = socket.readyState === WebSocket.OPEN;
    socket.onclose = socket.onmessage = null;
    socket.close();
    this.#lost(opened);
  }

  #compareClocks(theirs) {
    this.clocks.push(performance.now() / 1000 - theirs);
    if (this.clocks.length > 300) this.clocks.shift();
    this.clock = Math.min(...this.clocks);
  }
}
