/** Calls to the gateway: the API key, errors that can be read, and streams. */
import { sentEvents } from "./sse";

const KEY = "larimar-key";

/** The API key of this tab: kept until the tab is closed, and nowhere else. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key: string) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** An error of the gateway, or of the way to it. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly code: string,
    readonly status: number,
    readonly retryAfterS = 0,
  ) {
    super(message);
  }

  /** Whether a (better) API key would help. */
  get wantsKey(): boolean {
    return this.status === 401;
  }
}

type Query = Record<string, string | number | undefined>;

/** The path of a resource below v1/; each part is escaped. */
export function path(parts: string[], query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  const where = `v1/${parts.map(encodeURIComponent).join("/")}`;
  return given.length ? `${where}?${search}` : where;
}

interface Call {
  method?: string;
  body?: unknown;
  signal?: AbortSignal;
}

async function fetched(where: string, call: Call, accept: string): Promise<Response> {
  const headers: Record<string, string> = { accept };
  const key = apiKey.get();
  if (key) headers.authorization = `Bearer ${key}`;
  if (call.body !== undefined) headers["content-type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(where, {
      method: call.method ?? (call.body === undefined ? "GET" : "POST"),
      headers,
      body: call.body === undefined ? undefined : JSON.stringify(call.body),
      signal: call.signal,
      cache: "no-store",
    });
  } catch (error) {
    if (call.signal?.aborted) throw error;
    throw new ApiError("The gateway does not answer: is the pipeline up?", "NO_ANSWER", 0);
  }
  if (!response.ok) throw errorOf(await response.text(), response);
  return response;
}

/** Messages whose advice is for programs, in the words of this page. */
const TOLD_HERE: Record<string, string> = { NO_KEY: "This pipeline asks for an API key." };

function errorOf(text: string, response?: Response): ApiError {
  const retryAfterS = Number(response?.headers.get("retry-after") ?? 0);
  try {
    const { message, code } = JSON.parse(text).error;
    const said = TOLD_HERE[code] ?? String(message);
    return new ApiError(said, String(code ?? ""), response?.status ?? 200, retryAfterS);
  } catch {
    const status = response?.status ?? 0;
    return new ApiError(`The gateway answered ${status} without a reason.`, "", status, retryAfterS);
  }
}

/** One call, its answer as JSON. Throws ApiError. */
export async function call<T>(where: string, options: Call = {}): Promise<T> {
  const response = await fetched(where, options, "application/json");
  return (response.status === 204 ? {} : await response.json()) as T;
}

/** The events of a stream as JSON, as they come. Throws ApiError, also in the midst of it. */
export async function* stream<T>(
  where: string,
  options: Call = {},
  opened: () => void = () => undefined,
): AsyncGenerator<T> {
  const response = await fetched(where, options, "text/event-stream");
  opened();
  for await (const sent of sentEvents(response.body!)) {
    if (sent.event === "error") throw errorOf(sent.data);
    if (sent.data !== "[DONE]") yield JSON.parse(sent.data) as T;
  }
}
