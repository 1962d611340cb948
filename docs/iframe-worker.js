// Browsers refuse workers to pages that are read from a disk. There, the search runs in a hidden frame.
if (location.protocol === "file:") {
  // As between threads: a copy, and later.
  const send = (data, receive) => {
    const event = new MessageEvent("message", { data: structuredClone(data) });
    setTimeout(() => receive(event));
  };
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => send(data, (event) => this.onmessage?.(event));
      const script = frame.contentDocument.createElement("script");
      script.src = new URL(url, location.href).href;
      script.onload = () => {
        this.waiting.forEach((data) => this.deliver(data));
        this.waiting = null;
      };
      frame.contentDocument.head.append(script);
    }
    deliver(data) {
      send(data, (event) => this.inner.onmessage?.(event));
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.deliver(data);
    }
    terminate() {
      this.inner.frameElement?.remove();
    }
  };
}
