/** Server-sent events over fetch, which can carry an API key where EventSource cannot. */
export interface Sent {
  event: string;
  data: string;
}

/** The events of a response's body, as they come. Source: the WHATWG HTML standard, 9.2.6. */
export async function* sentEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<Sent> {
  const reader = body.pipeThrough(new TextDecoderStream() as never).getReader() as
    ReadableStreamDefaultReader<string>;
  let rest = "";
  let event = "message";
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop()!;
      for (const line of lines.map((one) => one.replace(/\r$/, ""))) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
          continue;
        }
        const [name, text] = field(line);
        if (name === "data") data.push(text);
        else if (name === "event") event = text;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Name and value of a line, which are parted by its first colon; a blank after that is of neither. */
function field(line: string): [string, string] {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}
